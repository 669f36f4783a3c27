"""The device mesh: four axes, each with a size within a slice and one between slices.

| axis | splits | communicates |
|---|---|---|
| `adapters` | lanes | nothing |
| `data` | samples of a step | sums of gradients, which are small |
| `fsdp` | lanes, and frozen weights | weights, gathered a block at a time |
| `tensor` | heads, feed-forward width, vocabulary | sums of activations, twice a block |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from pydantic import AfterValidator

from memlaw_jax.errors import UserError
from memlaw_jax.settings import settings

ADAPTERS, DATA, FSDP, TENSOR = "adapters", "data", "fsdp", "tensor"
MESH_AXES = (ADAPTERS, DATA, FSDP, TENSOR)
FILL = -1


def _size(value: int) -> int:
    if value != FILL and value < 1:
        raise ValueError("a mesh axis has 1 device or more, or -1 for all that are left")
    return value


Size = Annotated[int, AfterValidator(_size)]


@settings
class Axes:
    """Sizes of the axes; one may be -1, which takes what the others leave."""

    label: ClassVar[str] = "mesh"

    adapters: Size = FILL
    data: Size = 1
    fsdp: Size = 1
    tensor: Size = 1

    def __post_init__(self) -> None:
        if self.given().count(FILL) > 1:
            raise UserError("mesh has more than one axis of -1; at most one can take what is left (adapters does by "
                            "default).")  # fmt: skip

    def given(self) -> tuple[int, ...]:
        """The sizes in the order of `MESH_AXES`."""
        return self.adapters, self.data, self.fsdp, self.tensor

    def filled(self, count: int, what: str) -> tuple[int, ...]:
        """The sizes for `count` devices or slices.

        Raises:
          UserError: their product is another.
        """
        sizes, product = self.given(), math.prod(size for size in self.given() if size != FILL)
        if FILL in sizes and count % product == 0:
            return tuple(count // product if size == FILL else size for size in sizes)
        if product != count or FILL in sizes:
            told = " × ".join(f"{name} {size}" for name, size in zip(MESH_AXES, sizes, strict=True))
            raise UserError(f"the mesh's {told} do not make up the {count} {what}; choose sizes whose product is "
                            f"{count}, or -1 for one of them.")  # fmt: skip
        return sizes


@settings
class MeshConfig:
    """The mesh of a config.

    Attributes:
      ici: sizes within a slice of a TPU, or within hosts that NVLink joins, where communication is fast.
      dcn: sizes between slices, over the data center's network.
    """

    label: ClassVar[str] = "mesh"

    ici: Axes = Axes()
    dcn: Axes = Axes()

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over all devices, or those given.

        Raises:
          UserError: sizes whose product is not the number of devices.
        """
        from jax.experimental import mesh_utils

        devices = jax.devices() if devices is None else list(devices)
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        between = self.dcn.filled(slices, "slices")
        within = self.ici.filled(len(devices) // slices, "devices of a slice" if slices > 1 else "devices")
        if slices > 1:
            placed = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
        else:
            placed = mesh_utils.create_device_mesh(within, devices, allow_split_physical_axes=True)
        return Mesh(np.asarray(placed), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def whole_mesh(mesh: Mesh | None) -> Mesh:
    """A mesh with all four axes, in any order of JAX's own making: those that it lacks have one device."""
    if mesh is None:
        return MeshConfig().build()
    if unknown := [name for name in mesh.axis_names if name not in MESH_AXES]:
        raise UserError(f"the mesh has an axis {unknown[0]!r}; allowed are {', '.join(MESH_AXES)}.")
    order = [mesh.axis_names.index(name) for name in MESH_AXES if name in mesh.axis_names]
    shape = [mesh.shape.get(name, 1) for name in MESH_AXES]
    devices = mesh.devices.transpose(order).reshape(shape)
    return Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
