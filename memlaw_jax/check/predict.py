"""How long a step should take, from arithmetic, memory traffic and communication: a prediction, never a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memlaw_jax.check.collectives import Collective
from memlaw_jax.check.flops import step_flops
from memlaw_jax.check.hardware import Chip
from memlaw_jax.check.lower import PoolPlan, bytes_a_chip
from memlaw_jax.models.decoder import Remat
from memlaw_jax.training.memory import kept_bytes

# Shares of what a maker states that large products, copies and rings are taken to reach. Assumed, not measured.
OF_PEAK, OF_HBM, OF_LINKS = 0.4, 0.8, 0.8
# What a step of the embedded base reaches of a CPU's measured peak; `check.local` says how that was found.
OF_CPU_PEAK = 0.6


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of one optimiser step of all lanes of a chip.

    Attributes:
      flops: of a chip.
      sent: bytes that a chip sends, by ICI or NVLink and by the data centre's network.
      compute: seconds of arithmetic.
      memory: seconds of memory traffic.
      communication: seconds of communication.
    """

    flops: float
    sent: float
    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """The longest of the three, which run beside each other at best."""
        return max(self.compute, self.memory, self.communication)

    @property
    def bound(self) -> str:
        """What takes that long."""
        parts = {"arithmetic": self.compute, "memory": self.memory, "communication": self.communication}
        return max(parts, key=lambda name: parts[name])

    @property
    def compute_to_communication(self) -> float | None:
        """Seconds of arithmetic for each second of communication; None where nothing is sent."""
        return self.compute / self.communication if self.communication else None


def predict(plan: PoolPlan, remat: Remat, told: Sequence[Collective], chip: Chip) -> Prediction:
    """A step of this pool on this chip, with these collectives."""
    mesh = plan.placement.mesh.shape
    shared, adapter = step_flops(
        plan.base.config, plan.cut, plan.cells[0].lora, rank=plan.rank, tokens=plan.bucket.width,
        answers=plan.bucket.slots, remat=remat,
    )  # fmt: skip
    samples = plan.lanes_a_chip * plan.bucket.samples / mesh["data"]
    flops = samples * (shared / mesh["tensor"] + adapter)
    passes = 3 if remat == "blocks" else 2
    kept = kept_bytes(plan.base.config, plan.cut, plan.base.dtype, plan.tokens_a_chip, "none") / mesh["tensor"]
    weights = bytes_a_chip(plan.upper) * mesh["fsdp"]
    within = sum(one.bytes for one in told if not one.crosses_slices)
    between = sum(one.bytes for one in told if one.crosses_slices)
    network = between / (OF_LINKS * chip.dcn) if between and chip.dcn else 0.0
    return Prediction(
        flops=flops,
        sent=within + between,
        compute=flops / ((OF_CPU_PEAK if chip.platform == "cpu" else OF_PEAK) * chip.peak),
        memory=passes * (weights + 2 * kept) / (OF_HBM * chip.hbm),
        communication=within / (OF_LINKS * chip.ici) + network,
    )
