"""A pool's step, compiled for a slice or reckoned without a compiler: its memory, and what its chips send."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from memlaw_jax.check.collectives import Collective, Layout, collectives
from memlaw_jax.check.hardware import GIB, Hardware
from memlaw_jax.check.lower import PoolPlan, bytes_a_chip
from memlaw_jax.check.reckon import reckoned_collectives, reckoned_temporaries
from memlaw_jax.errors import UserError
from memlaw_jax.models.decoder import Remat

# Of what is usable, for other programs, code and fragments. libtpu's own total for a step that it refused was 4.5 %
# above what the peaks of smaller ones led to.
RESERVE = 0.08
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is known of a pool's step. Bytes are of one chip.

    Attributes:
      remat: what the backward pass computes again.
      weights: frozen weights above the cut.
      adapters: adapters, moments, what objectives remember, settings.
      features: features, labels and masks.
      temporaries: what the step holds besides these at its fullest.
      usable: what it may take altogether, a reserve included.
      collectives: of one optimiser step; None where the program was refused for its memory.
      kernels: TPU kernels in the program, which attention has; None where nothing was compiled.
      compiled: by the real compiler, rather than reckoned.
    """

    plan: PoolPlan
    remat: Remat
    weights: int
    adapters: int
    features: int
    temporaries: int
    usable: int
    collectives: Sequence[Collective] | None
    kernels: int | None
    compiled: bool

    @property
    def total(self) -> int:
        """Bytes of a chip at the fullest."""
        return self.weights + self.adapters + self.features + self.temporaries

    @property
    def reserve(self) -> int:
        """Bytes that stay free."""
        return int(RESERVE * self.usable)

    @property
    def fits(self) -> bool:
        """Whether there is room for it, and the reserve."""
        return self.collectives is not None and self.total <= self.usable - self.reserve


def examine(plan: PoolPlan, hardware: Hardware) -> Step:
    """Compiles a pool's step for TPUs, reckons it for GPUs.

    Raises:
      UserError: the compiler refuses the program for another reason than memory.
    """
    step = reckoned_step(plan, hardware.chip.usable)
    if hardware.chip.platform != "tpu":
        return step
    told, kernels = None, None
    try:
        made = plan.lower(plan.program(step.remat)).compile()
    except jax.errors.JaxRuntimeError as error:
        total = needed_bytes(str(error))
    else:
        text = made.as_text() or ""
        stats: Any = made.memory_analysis()
        total = stats.peak_memory_in_bytes
        told = collectives(text, layout(plan), plan.steps)
        kernels = text.count('custom_call_target="tpu_custom_call"')
    temporaries = max(0, total - step.weights - step.adapters - step.features)
    return dataclasses.replace(step, temporaries=temporaries, collectives=told, kernels=kernels, compiled=True)


def reckoned_step(plan: PoolPlan, usable: int) -> Step:
    """A pool's step from shapes alone, on chips of which a program may take so many bytes."""
    weights, features = bytes_a_chip(plan.upper), bytes_a_chip(plan.data)
    remat = plan.remat(usable - weights - features)
    lanes, settings, _, _, rows = plan.arguments(plan.program(remat))
    return Step(
        plan=plan, remat=remat, weights=weights, adapters=bytes_a_chip((lanes, settings, rows)), features=features,
        temporaries=reckoned_temporaries(plan, remat), usable=usable, collectives=reckoned_collectives(plan, remat),
        kernels=None, compiled=False,
    )  # fmt: skip


def layout(plan: PoolPlan) -> Layout:
    """Where the mesh's devices are in the compiled program."""
    mesh = plan.placement.mesh
    return Layout.of(dict(mesh.shape), [getattr(device, "slice_index", None) or 0 for device in mesh.devices.flat])


def needed_bytes(refusal: str) -> int:
    """What a program would need, out of the compiler's refusal to give it that much.

    Raises:
      UserError: a refusal for another reason.
    """
    found = re.search(r"\(([\d.]+)([KMGT])\) exceeds available", refusal) or re.search(
        r"Used ([\d.]+)([KMGT]) of", refusal
    )
    if found is None:
        raise UserError(f"the compiler refuses this step: {' '.join(refusal.split())[:400]}")
    return int(float(found[1]) * _UNITS[found[2]])
