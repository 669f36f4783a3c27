"""What an objective is, and the weighted mean that every objective ends in (paper, section on MemFT)."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from memlaw_jax.objectives.token_loss import TokenScores

State = Any  # a tree of arrays with one row each, () where an objective remembers nothing
WhenEmpty = Literal["sft", "skip", "zero"]
LossDtype = Literal["float32", "bfloat16"]
EMPTY = 1e-5  # a total weight up to here counts as none (the release's bound)


class Objective(Protocol):
    """Token weights from token scores: a pure function. Frozen and hashable: it is compiled into the step.

    The weights are one adapter's: under `vmap` nothing is shared or normalised across adapters.
    """

    @property
    def name(self) -> str:
        """The kind, as in a config."""
        ...

    @property
    def state_of(self) -> Literal["sample", "row"]:
        """Whether a row of the state belongs to a sample, or to a place in the batch whatever sample stands there."""
        ...

    @property
    def skips(self) -> bool:
        """Whether a step whose weights are all zero leaves weights and moments alone (the schedule goes on)."""
        ...

    def init(self, rows: int) -> State:
        """The state before the first step."""
        ...

    def weights(self, scores: TokenScores, mask: Bool[Array, "B A"], state: State) -> tuple[Float[Array, "B A"], State]:
        """Non-negative float32 weights, zero outside `mask`, and the state after this step."""
        ...


def weighted_loss(nats: Float[Array, "B A"], weights: Float[Array, "B A"]) -> Float[Array, ""]:
    """Σ w·L / Σ w in nats, 0 where no weight is left; no gradient through the weights."""
    weights = jax.lax.stop_gradient(weights)
    total = weights.sum()
    return jnp.where(weights == 0, 0.0, weights * nats).sum() / jnp.where(total == 0, 1.0, total)


def settled(weights: Float[Array, "B A"], mask: Bool[Array, "B A"], when_empty: WhenEmpty) -> Float[Array, "B A"]:
    """The weights, or where they amount to nothing what `when_empty` says: plain SFT, or none."""
    instead = mask.astype(weights.dtype) if when_empty == "sft" else jnp.zeros_like(weights)
    return jnp.where(weights.sum() <= EMPTY, instead, weights)


def as_compared(nats: Float[Array, "*B"], dtype: LossDtype) -> Float[Array, "*B"]:
    """Losses as the threshold sees them, without a gradient: the release compares bfloat16 ones."""
    nats = jax.lax.stop_gradient(nats)
    return nats if dtype == "float32" else jax.lax.reduce_precision(nats, exponent_bits=8, mantissa_bits=7)
