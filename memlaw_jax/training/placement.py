"""Where arrays live: lanes spread over the devices along one mesh axis, everything frozen on each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

ADAPTERS = "adapters"


def _all_devices() -> Mesh:
    return jax.make_mesh((jax.device_count(),), (ADAPTERS,), axis_types=(AxisType.Auto,))


@dataclass(frozen=True)
class Placement:
    """A one-axis mesh over all devices. Adapters never talk to each other, so a step needs no collective."""

    mesh: Mesh = field(default_factory=_all_devices)

    def fit(self, lanes: int) -> int:
        """The number of lanes rounded up to a multiple of the devices."""
        devices = self.mesh.size
        return -(-lanes // devices) * devices

    def spread(self, tree: Any, axis: int = 0) -> Any:
        """Puts a tree on the mesh, its leaves' `axis` (the lanes) split over the devices."""
        spec = PartitionSpec(*[None] * axis, ADAPTERS)
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def replicate(self, tree: Any) -> Any:
        """Puts a tree on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def describe(self) -> dict[str, int]:
        """The mesh as records state it."""
        return dict(self.mesh.shape)
