"""Per-token losses against a float64 softmax written out, and their gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memlaw_jax.objectives import token_scores, weighted_loss

pytestmark = pytest.mark.usefixtures("quick_compiler")

SAMPLES, SLOTS, WIDTH, VOCABULARY = 2, 3, 4, 7
HIDDEN, HEAD, LABELS = (SAMPLES, SLOTS, WIDTH), (WIDTH, VOCABULARY), (SAMPLES, SLOTS)
scores = jax.jit(token_scores)
token_ids = hnp.arrays(np.int32, LABELS, elements=st.integers(0, VOCABULARY - 1))


def brute_force(hidden: np.ndarray, head: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(−ln p, is the arg-max)` of each label, one at a time, in float64."""
    nats, right = np.zeros(labels.shape), np.zeros(labels.shape, bool)
    for place in np.ndindex(labels.shape):
        logits = hidden[place].astype(np.float64) @ head.astype(np.float64)
        highest = max(logits)
        normaliser = highest + np.log(sum(np.exp(logit - highest) for logit in logits))
        nats[place] = normaliser - logits[labels[place]]
        right[place] = all(logits[j] < highest for j in range(labels[place])) and logits[labels[place]] == highest
    return nats, right


def arrays(shape: tuple[int, ...], largest: int) -> st.SearchStrategy[np.ndarray]:
    """Multiples of 1/8: their products and sums are exact in float32, so ties in the logits are real ties."""
    return hnp.arrays(np.int64, shape, elements=st.integers(-8 * largest, 8 * largest)).map(
        lambda eighths: (eighths / 8).astype(np.float32)
    )


@given(hidden=arrays(HIDDEN, 12), head=arrays(HEAD, 12), labels=token_ids)
@settings(max_examples=80, deadline=None)
def test_scores_are_those_of_a_softmax(hidden: np.ndarray, head: np.ndarray, labels: np.ndarray) -> None:
    found, (nats, right) = scores(hidden, head, labels), brute_force(hidden, head, labels)
    # The logits are exact and so is their difference, however large they are: only the logarithm is rounded.
    np.testing.assert_allclose(found.nats, nats, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.right, right)


def test_a_small_loss_keeps_its_digits() -> None:
    """Thousands of tokens of p = 3e-8, each of which rounds away beside 1, are a loss of 1e-4 together."""
    vocabulary = 4096
    logits = np.full(vocabulary, 40.0 - 17.3, np.float32)
    logits[0] = 40.0
    rest = (vocabulary - 1) * np.exp(np.float64(logits[1]) - 40.0)
    hidden, label = jnp.ones((1, 1)), np.zeros(1, np.int32)
    loss, slope = jax.value_and_grad(lambda hidden: token_scores(hidden, logits[None], label).nats.sum())(hidden)
    np.testing.assert_allclose(loss, np.log1p(rest), rtol=1e-5)
    np.testing.assert_allclose(slope[0, 0], (logits[1] - logits[0]) * rest / (1 + rest), rtol=1e-5)


def test_a_tie_goes_to_the_first_token_as_greedy_decoding_breaks_it() -> None:
    head = np.zeros(HEAD, np.float32)
    labels = np.array([[0, 1, 6], [0, 0, 2]], np.int32)
    found = scores(np.ones(HIDDEN, np.float32), head, labels)
    np.testing.assert_array_equal(found.right, labels == 0)
    np.testing.assert_allclose(found.nats, np.log(VOCABULARY), rtol=1e-6)


@given(hidden=arrays(HIDDEN, 2), head=arrays(HEAD, 2), labels=token_ids)
@settings(max_examples=25, deadline=None)
def test_the_gradient_is_that_of_log_softmax(hidden: np.ndarray, head: np.ndarray, labels: np.ndarray) -> None:
    weights = np.linspace(0.1, 1, labels.size).reshape(labels.shape).astype(np.float32)
    np.testing.assert_allclose(
        _gradient_of_scores(hidden, head, labels, weights),
        _gradient_of_log_softmax(hidden, head, labels, weights),
        # Entries are sums of 7 products p·w of size up to 2: float32 loses a few 1e-7 of that.
        rtol=1e-5,
        atol=5e-6,
    )


@jax.jit
@jax.grad
def _gradient_of_scores(hidden, head, labels, weights):
    return (weights * token_scores(hidden, head, labels).nats).sum()


@jax.jit
@jax.grad
def _gradient_of_log_softmax(hidden, head, labels, weights):
    chosen = jax.nn.one_hot(labels, VOCABULARY) * jax.nn.log_softmax(hidden @ head)
    return -(weights * chosen.sum(axis=-1)).sum()


def test_losses_are_float32_and_exact_where_the_model_is_bfloat16() -> None:
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((1, 64, 32)), jnp.bfloat16)
    head = jnp.asarray(rng.standard_normal((32, 500)), jnp.bfloat16)
    labels = rng.integers(0, 500, (1, 64)).astype(np.int32)
    found = scores(hidden, head, labels)
    nats, _ = brute_force(np.asarray(hidden, np.float32), np.asarray(head, np.float32), labels)
    assert found.nats.dtype == jnp.float32
    # The factors are rounded to bfloat16, the sums are not: logits rounded to it would be off by up to 0.06 here.
    np.testing.assert_allclose(found.nats, nats, atol=1e-3)


stray = st.sampled_from([-100, -1, VOCABULARY, VOCABULARY + 5, 2**31 - 1, -(2**31)])


@given(
    hidden=arrays(HIDDEN, 12),
    head=arrays(HEAD, 12),
    labels=token_ids,
    strays=hnp.arrays(np.int32, LABELS, elements=st.just(0) | stray),
)
@settings(max_examples=60, deadline=None)
def test_a_label_that_is_no_token_is_harmless(
    hidden: np.ndarray, head: np.ndarray, labels: np.ndarray, strays: np.ndarray
) -> None:
    """It scores finitely and as wrong, and under a False mask it changes neither the loss nor the gradient."""
    real = strays == 0
    mixed = np.where(real, labels, strays)
    found, known = scores(hidden, head, mixed), scores(hidden, head, labels)
    assert np.isfinite(found.nats).all() and (np.asarray(found.nats) >= 0).all()
    assert not np.asarray(found.right)[~real].any()
    np.testing.assert_array_equal(np.asarray(found.right)[real], np.asarray(known.right)[real])
    np.testing.assert_array_equal(np.asarray(found.nats)[real], np.asarray(known.nats)[real])
    # Even where it is weighed.
    assert np.isfinite(_gradient_of_scores(hidden, head, mixed, np.ones(LABELS, np.float32))).all()
    (loss, gradient), (same_loss, same) = _masked(hidden, head, mixed, real), _masked(hidden, head, labels, real)
    np.testing.assert_array_equal(loss, same_loss)
    np.testing.assert_array_equal(gradient, same)
    assert (np.asarray(gradient)[~real] == 0).all()


@jax.jit
@jax.value_and_grad
def _masked(hidden, head, labels, mask):
    scored = token_scores(hidden, head, labels)
    return weighted_loss(scored.nats, mask.astype(jnp.float32))
