"""Whether a sweep fits the hardware that its config names."""

from __future__ import annotations

import os
from collections.abc import Callable

from memlaw_jax.check.flags import flag_environment
from memlaw_jax.check.hardware import NAMES, find_hardware
from memlaw_jax.check.phonebook import shaped
from memlaw_jax.check.report import Report
from memlaw_jax.check.topology import slice_devices, stand_ins
from memlaw_jax.errors import UserError
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.sweep_config import SweepConfig


def check_sweep(config: SweepConfig, *, fix: bool = False, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Compiles the step of a sweep's largest pool of lanes for its hardware, or reckons it for GPUs.

    Sets the environment that libtpu reads once: in a process that compiled for a TPU before, flags have no effect.

    Args:
      fix: looks for the most lanes that fit, with a few more compilations.
      tell: is told what goes on.

    Raises:
      UserError: no or unknown hardware, a mesh or model that does not suit it, or a program that the compiler refuses.
    """
    from memlaw_jax.check.abstract import abstract_base
    from memlaw_jax.check.compiled import Step, examine
    from memlaw_jax.check.lower import PoolPlan, largest_pool
    from memlaw_jax.check.search import largest_fit
    from memlaw_jax.models.attention import check_attention
    from memlaw_jax.models.base import DTYPES

    if config.hardware is None:
        raise UserError(f"the config names no hardware; add `hardware:` and one of {', '.join(NAMES)}.")
    hardware = find_hardware(config.hardware)
    on_tpu = hardware.chip.platform == "tpu"
    os.environ.update(flag_environment(config.xla_flags, hardware.chip.platform, os.environ))
    devices = slice_devices(hardware) if on_tpu else stand_ins(hardware)
    placement = Placement(config.mesh.build(devices), config.parallelism)
    base, own = abstract_base(config.model, config.dtype, config.attention)
    if on_tpu:
        check_attention(config.attention, base.config.head_dim, DTYPES[config.dtype], devices[0])
    plan = largest_pool(base, config if own else shaped(config), placement)

    def examined(plan: PoolPlan) -> Step:
        tell(f"{'compiling' if on_tpu else 'reckoning'} a step of {plan.lanes} lanes for {hardware.name}")
        return examine(plan, hardware)

    step = examined(plan)
    largest = largest_fit(step, examined) if fix else None
    return Report(hardware=hardware, step=step, own_tokenizer=own, searched=fix, largest=largest)
