"""Devices of a TPU slice that is not here, from libtpu's own description of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from memlaw_jax.check.hardware import Hardware
from memlaw_jax.errors import UserError

# libtpu looks for a TPU's metadata server and fails without one, and lets one process in at a time, which makes sense
# where there are chips to share; these tell it that there are none.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_BOUNDS = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 4, 1)}
_TWO_CORES = ("v4", "v5p")  # which a program sees as one


def slice_devices(hardware: Hardware) -> list[Any]:
    """The devices of all slices, to make a mesh of and compile for; nothing can run on them.

    Call it before JAX has met its devices if flags are to be set: libtpu reads them once.

    Raises:
      UserError: libtpu is not installed, or knows no such slice.
    """
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            "compiling for a TPU needs libtpu, which is not installed here; install memlaw-jax[tpu], or name a GPU as "
            "hardware, for which memory is reckoned."
        ) from None
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": _BOUNDS[hardware.chips_a_host]}
    if hardware.slices > 1:
        options["num_slices"] = hardware.slices
    if hardware.topology.startswith(_TWO_CORES):
        options["chip_config_name"] = "megacore"
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=hardware.topology, **options)
    except Exception as error:  # whatever the plugin raises
        told = " ".join(str(error).split())[:200]
        raise UserError(f"libtpu gives no description of {hardware.name} ({hardware.topology}): {told}") from None
    return list(described.devices)


@dataclass(frozen=True)
class StandIn:
    """A device that is only counted: enough for a mesh, and for shapes on it."""

    id: int
    slice_index: int
    platform: str = "none"  # of a TPU's devices a mesh would want to know where they are
    device_kind: str = "stand-in"
    process_index: int = 0


def stand_ins(hardware: Hardware) -> list[Any]:
    """Devices of all slices to reckon with where there is no compiler."""
    return [StandIn(i, i // hardware.chips_a_slice) for i in range(hardware.chips)]
