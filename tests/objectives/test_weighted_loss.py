"""The weighted mean that every objective ends in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memlaw_jax.objectives import OBJECTIVES, Sft, TokenScores, weighted_loss

pytestmark = pytest.mark.usefixtures("quick_compiler")

SHAPE = (2, 5)
value_and_gradient = jax.jit(jax.value_and_grad(weighted_loss, argnums=(0, 1)))
positive = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 20, width=32))
# An objective's weights are zero or a sizeable share of one; XLA flushes subnormal numbers to zero.
weight = hnp.arrays(np.float32, SHAPE, elements=st.just(0.0) | st.floats(2.0**-20, 20, width=32))


@given(nats=positive, weights=weight)
@settings(max_examples=60, deadline=None)
def test_it_is_the_weighted_mean_and_its_gradient_the_normalised_weights(nats: np.ndarray, weights: np.ndarray) -> None:
    value, (gradient, through_weights) = value_and_gradient(nats, weights)
    total = weights.sum(dtype=np.float64)
    normalised = weights / total if total > 0 else np.zeros(SHAPE)
    # A mean of 10 float32 numbers.
    np.testing.assert_allclose(value, (normalised * nats).sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, normalised, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(through_weights, 0)


def test_without_any_weight_there_is_no_loss_and_no_step() -> None:
    value, (gradient, _) = value_and_gradient(np.full(SHAPE, 3, np.float32), np.zeros(SHAPE, np.float32))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_loss_under_zero_weight_does_not_leak(poison: float) -> None:
    nats, weights = np.full(SHAPE, 2, np.float32), np.ones(SHAPE, np.float32)
    nats[0, 1], weights[0, 1] = poison, 0
    value, (gradient, _) = value_and_gradient(nats, weights)
    assert value == 2
    np.testing.assert_allclose(gradient, weights / 9, rtol=1e-6)


def test_a_loss_that_is_no_number_is_not_hidden() -> None:
    nats = np.full(SHAPE, 2, np.float32)
    nats[0, 1] = np.nan
    assert np.isnan(value_and_gradient(nats, np.ones(SHAPE, np.float32))[0])


def test_weights_that_depend_on_the_losses_pass_no_gradient() -> None:
    """The gradient of Σ w·L / Σ w must be w / Σ w, not that of w(L) as well (paper, section on MemFT)."""
    nats = jnp.asarray(np.random.default_rng(0).uniform(0, 4, SHAPE), jnp.float32)
    soft = jax.nn.sigmoid(nats - 1)
    gradient = jax.grad(lambda losses: weighted_loss(losses, jax.nn.sigmoid(losses - 1)))(nats)
    np.testing.assert_allclose(gradient, soft / soft.sum(), rtol=1e-5)


def test_sft_is_the_plain_mean_over_the_trained_tokens() -> None:
    rng = np.random.default_rng(1)
    nats = rng.uniform(0, 5, SHAPE).astype(np.float32)
    mask = np.array([[True, True, False, False, False], [True, True, True, True, False]])
    scores = TokenScores(nats=jnp.asarray(nats), right=jnp.zeros(SHAPE, bool))
    value = weighted_loss(scores.nats, Sft().weights(scores, jnp.asarray(mask))[0])
    np.testing.assert_allclose(value, nats[mask].mean(), rtol=1e-6)


@pytest.mark.parametrize("method", sorted(OBJECTIVES))
def test_every_objective_is_hashable_by_value_and_weighs_nothing_outside_the_mask(method: str) -> None:
    objective = OBJECTIVES[method]()
    assert objective.name == method
    # It is a static argument of the step: two equal ones must not compile it twice.
    assert objective == OBJECTIVES[method]() and hash(objective) == hash(OBJECTIVES[method]())
    mask = jnp.asarray(np.random.default_rng(2).random(SHAPE) < 0.5)
    scores = TokenScores(nats=jnp.full(SHAPE, 3.0), right=jnp.zeros(SHAPE, bool))
    weights = np.asarray(objective.weights(scores, mask, objective.init(SHAPE[0]))[0])
    assert (weights[~np.asarray(mask)] == 0).all() and (weights >= 0).all() and weights.sum() > 0
