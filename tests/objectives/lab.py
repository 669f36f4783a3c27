"""One batch shape for all tests of the objectives, so that little is compiled, and a step on it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from memlaw_jax.objectives import Objective, TokenScores, weighted_loss

ROWS, SLOTS = 2, 12
SHAPE = (ROWS, SLOTS)
THRESHOLDS = (0.5, 0.1, 0.25, 0.7, 0.97)


def outcome(
    objective: Objective, nats: Any, right: Any, mask: Any, state: Any
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """`(loss, weights, gradient in the losses, state)` of one step, as the trainer differentiates it."""

    def loss(nats: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        weights, after = objective.weights(TokenScores(nats=nats, right=jnp.asarray(right)), jnp.asarray(mask), state)
        return weighted_loss(nats, weights), (weights, after)

    (value, (weights, after)), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(nats))
    return value, weights, gradient, after
