"""Plain supervised fine-tuning, and the weighted mean that every objective ends in."""

from __future__ import annotations

from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from memlaw_jax.objectives.token_loss import TokenScores
from memlaw_jax.settings import settings


class Objective(Protocol):
    """Token weights from token scores. Frozen and hashable: it is compiled into the step."""

    @property
    def name(self) -> str:
        """The method's name in records."""
        ...

    def weights(self, scores: TokenScores, mask: Bool[Array, "B A"]) -> Float[Array, "B A"]:
        """Non-negative weights, zero outside `mask`."""
        ...


@settings
class Sft:
    """Every trained token weighs the same: the mean cross-entropy."""

    label: ClassVar[str] = "method sft"
    name: ClassVar[str] = "sft"

    def weights(self, scores: TokenScores, mask: Bool[Array, "B A"]) -> Float[Array, "B A"]:
        """1 for each trained token."""
        return mask.astype(scores.nats.dtype)


OBJECTIVES: dict[str, type[Sft]] = {Sft.name: Sft}


def weighted_loss(nats: Float[Array, "B A"], weights: Float[Array, "B A"]) -> Float[Array, ""]:
    """Σ w·L / Σ w in nats, 0 where no weight is left (paper, section on MemFT); no gradient through the weights."""
    weights = jax.lax.stop_gradient(weights)
    total = weights.sum()
    return jnp.where(weights > 0, weights * nats, 0.0).sum() / jnp.where(total > 0, total, 1.0)
