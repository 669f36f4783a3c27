"""The machine that is here, as hardware to predict for: known chips from the table, a CPU measured by a short probe.

`predict.OF_CPU_PEAK` and `grid.COMPILING` of a CPU were calibrated on one core of an AMD EPYC (AVX-512, measured peak
105 GFLOP/s) with the long-context law of the embedded base, 90 cells of 400 steps, decoded at the end: 11.2 min are
predicted, 11.3 were taken, and each of its five lengths lay within 10 %. Of a MemFT sweep the steps of five rounds of
lanes took 23 to 27 s and 66 s where 30 and 70 are predicted; decoding came on top. A core that other work wants gives
less: the same law on another text took 14.3 min, and a sixth round seven times as long as the two like it. Nothing was
calibrated on several cores or for larger models.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from memlaw_jax.check.hardware import Chip, Hardware, find_hardware
from memlaw_jax.errors import UserError

# What JAX calls chips of the table, and a machine that has them.
_KINDS = {
    "TPU v4": "v4-8",
    "TPU v5 lite": "v5e-8",
    "TPU v5e": "v5e-8",
    "TPU v5": "v5p-8",
    "TPU v5p": "v5p-8",
    "TPU v6 lite": "v6e-8",
    "TPU v6e": "v6e-8",
    "NVIDIA H100 80GB HBM3": "h100-8",
    "NVIDIA H200": "h200-8",
}
# Of the matrices that are multiplied, and numbers that are read and written, all float32. A product takes a few
# milliseconds, so that on a busy machine the best of many had a core to itself.
_SIDE, _NUMBERS = 512, 2**24
_PROBE = 0.3  # seconds of each of the two probes


@functools.cache
def this_machine() -> Hardware:
    """The devices that JAX sees. Of a CPU it measures the peak and the memory's speed, which takes under a second.

    What else runs there makes the peak, and so the prediction, worse.

    Raises:
      UserError: a GPU or TPU of which nothing is known here.
    """
    import jax

    devices, local = jax.devices(), len(jax.local_devices())
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        chip, what = _cpu(local), f"{cores} CPU core{'s' if cores > 1 else ''}"
        slices = 1
    elif kind in _KINDS:
        chip = find_hardware(_KINDS[kind]).chip
        what = f"{len(devices)} × {chip.name}"
    else:
        raise UserError(
            f"the device here is {kind!r}, of which no peak and memory are known; name hardware to predict for, such "
            "as h100-1."
        )
    return Hardware(
        name=f"this machine ({what})", chip=chip, slices=slices, chips_a_slice=len(devices) // slices,
        chips_a_host=local,
    )  # fmt: skip


def _cpu(devices: int) -> Chip:
    """One of the devices that share this machine's cores and memory."""
    import jax
    import jax.numpy as jnp

    square, numbers = jnp.ones((_SIDE, _SIDE)), jnp.ones(_NUMBERS)
    multiply, negate = jax.jit(jnp.matmul), jax.jit(jnp.negative, donate_argnums=0)  # in place: no new pages
    multiplied = _best(lambda _: multiply(square, square), square)
    speed = 2 * numbers.nbytes / _best(negate, numbers) / devices
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Chip(
        name="CPU", platform="cpu", memory=memory // devices,
        usable=memory // 2 // devices,  # as `training.memory.free_memory` reckons
        peak=2 * _SIDE**3 / multiplied / devices, hbm=speed, ici=speed,
    )  # fmt: skip


def _best(function: Callable[[Any], Any], value: Any) -> float:
    """Seconds of a call on what the call before gave, the best of as many as the probe has time for."""
    value = function(value).block_until_ready()
    found: list[float] = []
    end = time.perf_counter() + _PROBE
    while not found or time.perf_counter() < end:
        begun = time.perf_counter()
        value = function(value).block_until_ready()
        found.append(time.perf_counter() - begun)
    return min(found)
