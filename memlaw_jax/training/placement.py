"""Where a sweep's arrays live on the mesh: lanes spread over it, frozen weights split or copied, all else copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from memlaw_jax.errors import UserError
from memlaw_jax.mesh import MESH_AXES, whole_mesh
from memlaw_jax.models import Base, Cut, DecoderConfig, Upper, upper_shardings, upper_weights
from memlaw_jax.models.checkpoint import abstract_params
from memlaw_jax.models.decoder import Params
from memlaw_jax.sharding import RULES, copied, weight_shardings

Parallelism = Literal["jit", "pmap"]
LANES = RULES["lanes"]


@dataclass(frozen=True)
class Placement:
    """The mesh of a sweep and how its step runs there.

    `jit` runs one program over all of the mesh, `pmap` a copy of the step on each device. A mesh that lacks some of the
    axes is taken to have one device along them.

    Raises:
      UserError: `pmap` on a mesh that splits more than lanes.
    """

    mesh: Mesh = field(default_factory=lambda: whole_mesh(None))
    parallelism: Parallelism = "jit"

    def __post_init__(self) -> None:
        if self.mesh.axis_names != MESH_AXES:
            object.__setattr__(self, "mesh", whole_mesh(self.mesh))
        if self.parallelism == "pmap" and self.mesh.shape["adapters"] != self.mesh.size:
            raise UserError("parallelism is 'pmap', which splits adapters only; set the mesh's other axes to 1, or "
                            "choose 'jit'.")  # fmt: skip

    @property
    def ways(self) -> int:
        """Into how many parts the lanes are split."""
        return self.mesh.shape["adapters"] * self.mesh.shape["fsdp"]

    def fit(self, lanes: int) -> int:
        """The number of lanes rounded up to a multiple of the parts."""
        return -(-lanes // self.ways) * self.ways

    def lanes(self, axis: int = 0) -> NamedSharding:
        """Of arrays whose `axis` is the lanes."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, LANES))

    @property
    def whole(self) -> NamedSharding:
        """Of arrays that every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())

    def spread(self, tree: Any, axis: int = 0) -> Any:
        """Puts a tree on the mesh, its leaves' `axis` (the lanes) split over it."""
        return jax.tree.map(lambda leaf: _place(leaf, self.lanes(axis)), tree)

    def replicate(self, tree: Any) -> Any:
        """Puts a tree on every device."""
        return jax.tree.map(lambda leaf: _place(leaf, self.whole), tree)

    def upper(self, base: Base, cut: Cut) -> Upper:
        """The base's weights above the cut, where training wants them."""
        params = base.near()

        def take(params: Params) -> Upper:
            return upper_weights(base.config, params, cut)

        places = upper_shardings(self.mesh, jax.eval_shape(take, params))
        if base.mesh is None:
            return jax.tree.map(_place, take(params), places)
        return jax.jit(take, out_shardings=places)(params)

    def samples(self, count: int) -> int:
        """Samples of a step, filled up with empty ones to what the axis `data` divides.

        Raises:
          UserError: fewer samples than the axis has devices, most of which would have nothing to do.
        """
        data = self.mesh.shape["data"]
        if count < data:
            raise UserError(f"the mesh's axis data has {data} devices, but a step reads {count} samples; use adapters "
                            "or fsdp instead.")  # fmt: skip
        return -(-count // data) * data

    def check(self, config: DecoderConfig) -> None:
        """Refuses a mesh that does not divide the model, before anything is loaded.

        Raises:
          UserError: it names the axis and the weight.
        """
        weight_shardings(self.mesh, abstract_params(config), RULES)

    def describe(self) -> dict[str, int]:
        """The mesh as records state it."""
        return dict(self.mesh.shape)


def _place(leaf: Any, place: Sharding) -> Any:
    """An array put somewhere; of an array that other processes hold too each process puts its own part."""
    if place.is_fully_addressable:
        return jax.device_put(leaf, place)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf if leaf.sharding == place else copied(place)(leaf)
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, place, lambda index: value[index])
