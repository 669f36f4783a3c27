"""MemFT's two objectives, step by step, against the same rules written out one token at a time."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memlaw_jax.objectives import MemFTOT, MemFTSW, Objective, Sft, TokenScores, weighted_loss

from . import brute_force
from .brute_force import RowMemory, Step
from .lab import ROWS, SHAPE, SLOTS, THRESHOLDS, outcome

pytestmark = pytest.mark.usefixtures("quick_compiler")

STEPS = 8
# A loss of 15 nats has an ulp of 1e-6, which κ ≤ 16 makes an error of 2e-5 in what the sigmoid sees, so in its tail of
# 2e-5 of it; one in a hundred thousand more for the exponentials. XLA may take the sigmoid from a tanh near ±1, which
# float32 gives in steps of 6e-8.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 3e-7}


def near_thresholds() -> list[float]:
    """The losses at which a comparison turns, in float32 and after rounding to bfloat16, and their neighbours."""
    found = []
    for threshold in THRESHOLDS:
        bound = np.float32(-math.log(threshold))
        below, above = np.nextafter(bound, np.float32(0)), np.nextafter(bound, np.float32(9))
        found += [below, bound, above, bound * np.float32(0.997), bound * np.float32(1.003)]
    return [float(loss) for loss in found]


nat = st.sampled_from([0.0, 1e-3, *near_thresholds()]) | st.floats(0, 15, width=32)
learned = st.sampled_from([0.0, 2.0**-10])
row = hnp.arrays(np.float32, SLOTS, elements=nat, fill=st.nothing()) | hnp.arrays(np.float32, SLOTS, elements=learned)
losses = st.tuples(*[row] * ROWS).map(np.stack)
flags = hnp.arrays(np.bool_, SHAPE, elements=st.booleans())
masks = st.one_of(
    flags,
    # Answers of some length, none of which is a row of padding.
    st.tuples(*[st.integers(0, SLOTS)] * ROWS).map(lambda lengths: np.arange(SLOTS) < np.array(lengths)[:, None]),
    st.just(np.zeros(SHAPE, bool)),
)
poison = st.sampled_from([0.0, np.nan, np.inf, -np.inf])
when_empty = st.sampled_from(["sft", "skip", "zero"])
loss_dtypes = st.sampled_from(["float32", "bfloat16"])


value_and_gradient = jax.jit(jax.value_and_grad(weighted_loss))


def assert_step(found: tuple[jax.Array, jax.Array, jax.Array, Any], expected: Step) -> None:
    loss, weights, gradient, _ = found
    if abs(expected.total - 1e-5) < 1e-7:  # float32 may see the total on the other side of the bound
        return
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, expected.weights, **CLOSE)
    if 0 < expected.weights.sum() < 0.01:  # what CLOSE allows in a weight is then no small share of their total
        assert np.isfinite(loss) and np.isfinite(gradient).all()
        return
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(gradient, expected.slope, rtol=1e-3, atol=1e-4)


@given(
    nats=losses,
    right=flags,
    mask=masks,
    hidden=poison,
    threshold=st.sampled_from(THRESHOLDS),
    when_empty=when_empty,
    rounded=loss_dtypes,
)
@settings(max_examples=100, deadline=None)
def test_only_threshold_is_its_rule_token_by_token(
    nats: np.ndarray,
    right: np.ndarray,
    mask: np.ndarray,
    hidden: float,
    threshold: float,
    when_empty: Any,
    rounded: Any,
) -> None:
    nats = np.where(mask, nats, np.float32(hidden))
    objective = MemFTOT(threshold=threshold, when_empty=when_empty, losses=rounded)
    found = outcome(objective, nats, right, mask, objective.init(ROWS))
    expected = brute_force.only_threshold(nats, mask, threshold=threshold, when_empty=when_empty, losses=rounded)
    np.testing.assert_array_equal(found[1], expected.weights)
    assert_step(found, expected)
    assert found[3] == ()
    assert objective.skips == (when_empty == "skip")


# Growth in eighths: stretch and window are exact in float32, so an end of the window that falls on a slot does so in
# both. κ and τ are no part of a comparison.
eighths = st.integers(0, 12).map(lambda count: count / 8)
constants = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from(THRESHOLDS),
        "kappa": st.floats(0.25, 16),
        "tau": st.floats(0.5, 64),
        "window": st.integers(1, 5),
        "floor": st.sampled_from([0.0, 0.01, 1.0]) | st.floats(0, 1),
        "patience": st.integers(1, 3),
        "expansion": eighths,
        "cap": eighths.map(lambda more: 1 + 2 * more),
        "when_empty": when_empty,
        "losses": loss_dtypes,
    }
)
# Where the first error of a row is, step after step: it stays a while, moves, vanishes and comes back.
stays = st.tuples(st.sampled_from([None, 0, 2, 3, 7]), st.integers(1, 6))
track = st.lists(stays, min_size=2, max_size=4).map(lambda parts: [slot for slot, steps in parts for _ in range(steps)])
pool = np.array([0, 1e-3, 0.3, 1, 2, 5, 15, *near_thresholds()], np.float32)


@st.composite
def lessons(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(nats, right)` of each step, with wrong tokens at and behind the errors that were drawn."""
    tracks = [draw(track) for _ in range(ROWS)]
    noise = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps = []
    for step in range(STEPS):
        right = np.ones(SHAPE, bool)
        for row, slots in enumerate(tracks):
            first = slots[min(step, len(slots) - 1)]
            if first is not None:
                right[row, first:] = noise.random(SLOTS - first) < 0.5
                right[row, first] = False
        left = noise.random((ROWS, 1)) < 0.75  # else the row is learned
        steps.append((np.where(left, noise.choice(pool, SHAPE), np.float32(0)), right))
    return steps


@given(steps=lessons(), mask=masks | st.just(np.ones(SHAPE, bool)), hidden=poison, constants=constants)
@settings(max_examples=100, deadline=None)
def test_the_sliding_window_is_its_rule_through_a_sequence_of_steps(
    steps: list[tuple[np.ndarray, np.ndarray]], mask: np.ndarray, hidden: float, constants: dict[str, Any]
) -> None:
    objective = MemFTSW(**constants)
    state, memory = objective.init(ROWS), [RowMemory() for _ in range(ROWS)]
    for nats, right in steps:
        nats = np.where(mask, nats, np.float32(hidden))
        # What a masked token's arg-max is says nothing: here it is wrong.
        right = right & mask
        scores = TokenScores(nats=jnp.asarray(nats), right=jnp.asarray(right))
        weights, state = objective.weights(scores, jnp.asarray(mask), state)
        loss, gradient = value_and_gradient(nats, weights)
        expected = brute_force.sliding_window(nats, right, mask, memory, **constants)
        assert_step((loss, weights, gradient, state), expected)
        np.testing.assert_array_equal(state.anchor, [-1 if row.anchor is None else row.anchor for row in memory])
        np.testing.assert_array_equal(state.patience, [row.repeats for row in memory])
        np.testing.assert_array_equal(state.stretch, [row.stretch for row in memory])


@given(nats=losses, right=flags, mask=masks, constants=constants)
@settings(max_examples=25, deadline=None)
def test_nothing_flows_through_the_weights(
    nats: np.ndarray, right: np.ndarray, mask: np.ndarray, constants: dict[str, Any]
) -> None:
    """Not through the sigmoid either: the gradient is w / Σw, and that of the weights themselves is none."""
    objective = MemFTSW(**constants)
    state = objective.init(ROWS)

    def total(nats: jax.Array) -> jax.Array:
        weights, after = objective.weights(TokenScores(nats=nats, right=jnp.asarray(right)), jnp.asarray(mask), state)
        return weights.sum() + sum(leaf.sum() for leaf in jax.tree.leaves(after))

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(nats)), 0)
    expected = brute_force.sliding_window(nats, right, mask, [RowMemory() for _ in range(ROWS)], **constants)
    assert_step(outcome(objective, nats, right, mask, state), expected)


ADAPTERS = 4
compiled = jax.jit(outcome, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def compiled_for_all(objective: Objective, nats: Any, right: Any, mask: Any, states: Any) -> Any:
    """`outcome` of every adapter, the mask shared."""
    return jax.vmap(functools.partial(outcome, objective), in_axes=(0, 0, None, 0))(nats, right, mask, states)


@pytest.mark.parametrize(
    "objective",
    [Sft(), MemFTOT(), MemFTOT(when_empty="skip"), MemFTSW(window=2, patience=1, tau=2.0), MemFTSW.axolotl()],
    ids=["sft", "ot", "ot-skip", "sw", "sw-axolotl"],
)
@given(
    nats=hnp.arrays(np.float32, (ADAPTERS, *SHAPE), elements=nat, fill=st.nothing()),
    right=hnp.arrays(np.bool_, (ADAPTERS, *SHAPE), elements=st.booleans()),
    mask=masks,
)
@settings(max_examples=20, deadline=None)
def test_an_adapter_among_others_has_what_it_has_alone(
    objective: Any, nats: np.ndarray, right: np.ndarray, mask: np.ndarray
) -> None:
    """Also beside one that has learned everything, one whose losses are no numbers, and one with huge losses."""
    nats, right = nats.copy(), right.copy()
    nats[0], right[0] = 0, True
    nats[1] = np.nan
    nats[2] *= np.float32(1e30)
    # Every adapter stands elsewhere in its memory.
    states = [objective.init(ROWS)]
    for each in range(1, ADAPTERS):
        states.append(compiled(objective, nats[3], right[each], mask, states[-1])[3])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together = compiled_for_all(objective, nats, right, mask, stacked)
    for each in range(ADAPTERS):
        alone = compiled(objective, nats[each], right[each], mask, states[each])
        # The same operations; the sums of 24 numbers may be taken in another order.
        for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(many[each], one, rtol=1e-5, atol=1e-7)
    for part in together[:3]:
        assert np.isfinite(np.asarray(part)[[0, 2, 3]]).all()


@pytest.mark.parametrize("objective", [MemFTOT(), MemFTOT(when_empty="skip"), MemFTSW(), MemFTSW.axolotl()], ids=str)
def test_a_loss_that_is_no_number_is_not_hidden(objective: Any) -> None:
    nats = np.full(SHAPE, 2, np.float32)
    nats[0, 0] = np.nan
    mask = np.ones(SHAPE, bool)
    assert np.isnan(outcome(objective, nats, ~mask, mask, objective.init(ROWS))[0])
