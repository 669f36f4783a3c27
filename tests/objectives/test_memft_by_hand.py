"""MemFT's objectives on examples worked by hand, the presets among them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.objectives import MemFTOT, MemFTSW, Objective, TokenScores, weighted_loss

from .lab import ROWS, SHAPE, SLOTS, THRESHOLDS, outcome

pytestmark = pytest.mark.usefixtures("quick_compiler")

LONG = 240


def weights_of(objective: Objective, nats: Any, right: Any, state: Any = None) -> tuple[np.ndarray, Any]:
    """Of a sample whose tokens are all trained; the rest of the batch is padding."""
    length = len(nats)
    shape = SHAPE if length <= SLOTS else (ROWS, LONG)  # few shapes, few compilations
    padded = TokenScores(nats=jnp.zeros(shape), right=jnp.zeros(shape, bool))
    scores = jax.tree.map(
        lambda pad, given: pad.at[0, :length].set(jnp.asarray(given)), padded, TokenScores(nats, right)
    )
    mask = np.zeros(shape, bool)
    mask[0, :length] = True
    weights, state = objective.weights(scores, jnp.asarray(mask), objective.init(ROWS) if state is None else state)
    assert (np.asarray(weights)[~mask] == 0).all()
    return np.asarray(weights[0, :length]), state


def test_presets_have_the_constants_of_the_release_and_of_axolotl() -> None:
    release = {"threshold": 0.5, "when_empty": "sft", "losses": "bfloat16"}
    assert vars_of(MemFTOT.release()) == release
    assert vars_of(MemFTOT.release("skip")) == release | {"when_empty": "skip"}
    assert vars_of(MemFTSW.release()) == release | {
        "kappa": 10.0,
        "tau": 20.0,
        "window": 50,
        "floor": 0.01,
        "patience": 3,
        "expansion": 0.5,
        "cap": 4.0,
        "state_of": "row",
    }
    axolotl = vars_of(MemFTSW.axolotl())
    # Its window has one size; with that, how long to wait for its growth and how far it may grow say nothing.
    assert axolotl.pop("expansion") == 0 and axolotl.pop("patience") >= 1 and axolotl.pop("cap") >= 1
    assert axolotl == {
        "threshold": 0.5,
        "kappa": 1.0,
        "tau": 64.0,
        "window": 64,
        "floor": 0.0,
        "when_empty": "zero",
        "losses": "float32",
        "state_of": "sample",
    }


def vars_of(objective: Any) -> dict[str, Any]:
    return dataclasses.asdict(objective)


def test_defaults_are_the_release_on_float32_losses_with_a_memory_for_each_sample() -> None:
    assert vars_of(MemFTOT()) == vars_of(MemFTOT.release()) | {"losses": "float32"}
    assert vars_of(MemFTSW()) == vars_of(MemFTSW.release()) | {"losses": "float32", "state_of": "sample"}
    assert MemFTOT().state_of == "sample"


def test_only_threshold_by_hand() -> None:
    """p = 0.905, 0.497, 0.549 and 0.050: of the four, the second and the last are below ½."""
    nats, right = [0.1, 0.7, 0.6, 3.0], [True, False, False, True]
    weights, _ = weights_of(MemFTOT.release(), nats, right)
    np.testing.assert_array_equal(weights, [0, 1, 0, 1])
    np.testing.assert_allclose(weighted_loss(jnp.asarray([nats]), jnp.asarray([weights])), (0.7 + 3.0) / 2, rtol=1e-6)
    # A threshold of 0.92 is a loss of 0.083.
    np.testing.assert_array_equal(weights_of(MemFTOT(threshold=0.92), nats, right)[0], [1, 1, 1, 1])


@pytest.mark.parametrize(("when_empty", "weight"), [("sft", 1.0), ("skip", 0.0), ("zero", 0.0)])
def test_where_no_token_is_left(when_empty: Any, weight: float) -> None:
    learned = [0.1, 0.2, 0.69]
    objective = MemFTOT.release(when_empty)
    np.testing.assert_array_equal(weights_of(objective, learned, [True] * 3)[0], weight)
    # σ(10(0 − ln 2)) = 1/1025: never nothing, but with κ = 30 it is 2^−30.
    sharp = MemFTSW(kappa=30, when_empty=when_empty)
    np.testing.assert_array_equal(weights_of(sharp, [0.0, 0.0, 0.0], [True] * 3)[0], weight)
    assert sharp.skips == objective.skips == (when_empty == "skip")


@pytest.mark.parametrize("objective", [MemFTOT(), MemFTSW(kappa=30)])
def test_a_sample_that_is_learned_rests_while_another_is_not(objective: Any) -> None:
    """What counts as empty is the batch, not a row of it."""
    nats = np.array([[0.0] * SLOTS, [3.0] * SLOTS], np.float32)
    scores = TokenScores(nats=jnp.asarray(nats), right=jnp.ones(SHAPE, bool))
    weights, _ = objective.weights(scores, jnp.ones(SHAPE, bool), objective.init(ROWS))
    np.testing.assert_allclose(weights, nats / 3, atol=1e-8)


def test_a_total_of_1e_5_counts_as_nothing_and_a_little_more_does_not() -> None:
    """σ(κ(0 − ln 2)) = 1/(1 + 2^κ): with κ = 17, 7.63e-6 a token."""
    one, two = [0.0], [0.0, 0.0]
    objective = MemFTSW(kappa=17.0, when_empty="zero")
    np.testing.assert_array_equal(weights_of(objective, one, [True])[0], 0)
    np.testing.assert_allclose(weights_of(objective, two, [True, True])[0], 7.62934e-6, rtol=1e-4)


def test_the_sliding_window_by_hand() -> None:
    """First error at 2, window 3, τ 20. σ(10(0.75 − ln 2)) = 0.638423, σ(10(0.5 − ln 2)) = 0.126588.

    e^(−1/20) = 0.951229 and e^(−2/20) = 0.904837; slot 5 is the first behind the window.
    """
    nats = [0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 0.5]
    right = [True, True, False, True, False, False, True]
    weights, state = weights_of(MemFTSW(window=3, losses="bfloat16"), nats, right)
    expected = [0.126588, 0.638423, 0.638423, 0.607287, 0.577669, 0.00638423, 0.00126588]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert (int(state.anchor[0]), int(state.patience[0]), float(state.stretch[0])) == (2, 0, 1.0)


def test_without_an_error_the_window_does_not_matter() -> None:
    weights, state = weights_of(MemFTSW(window=1, tau=0.1), [0.5, 0.75, 0.5], [True] * 3)
    np.testing.assert_allclose(weights, [0.126588, 0.638423, 0.126588], rtol=1e-5)
    assert int(state.anchor[0]) == -1


def test_the_release_on_a_sample_that_is_stuck() -> None:
    """The window of 50 is 75 long at the third repeat, then 100, … and 200, four times its size, from the eighth on."""
    nats, right = [0.75] * 240, [slot != 2 for slot in range(240)]
    objective, state, ends = MemFTSW.release(), None, []
    for _ in range(10):
        weights, state = weights_of(objective, nats, right, state)
        # Behind the window all weigh alike; the decay would go on.
        same = np.isclose(weights, 0.00638423, rtol=1e-5)
        ends.append(int(np.argmin(same[::-1])))
    assert [240 - 2 - behind for behind in ends] == [50, 50, 50, 75, 100, 125, 150, 175, 200, 200]
    # e^(−199/20) of 0.638423, the last of the window: less than the floor, as in the release.
    np.testing.assert_allclose(weights[[201, 202]], [3.04704e-5, 0.00638423], rtol=1e-4)
    # The error moves one slot on, and the window has its first size again; so it has without any error.
    moved, after = weights_of(objective, nats, [slot != 3 for slot in range(240)], state)
    np.testing.assert_allclose(moved[[52, 53]], [0.638423 * 0.0862936, 0.00638423], rtol=1e-4)
    assert (int(after.patience[0]), float(after.stretch[0])) == (0, 1.0)
    _, after = weights_of(objective, nats, [True] * 240, state)
    assert (int(after.anchor[0]), int(after.patience[0]), float(after.stretch[0])) == (-1, 0, 1.0)
    # It comes back where it was, and that is no repeat.
    _, after = weights_of(objective, nats, right, after)
    assert (int(after.anchor[0]), int(after.patience[0]), float(after.stretch[0])) == (2, 0, 1.0)


def test_axolotl_by_hand() -> None:
    """κ = 1: σ(2 − ln 2) = 0.786986. First error at 2, so 64 tokens end with slot 65, at e^(−63/64) = 0.373673."""
    nats, right = [2.0] * 70, [slot != 2 for slot in range(70)]
    objective, state = MemFTSW.axolotl(), None
    for _ in range(6):
        weights, state = weights_of(objective, nats, right, state)
    np.testing.assert_allclose(weights[:4], [0.786986, 0.786986, 0.786986, 0.786986 * 0.984496], rtol=1e-5)
    np.testing.assert_allclose(weights[65], 0.786986 * 0.373673, rtol=1e-5)
    np.testing.assert_array_equal(weights[66:], 0)


def test_rows_remember_apart() -> None:
    """A sample that is stuck stretches its own window only."""
    objective = MemFTSW(patience=1)
    state = objective.init(ROWS)
    for first in (1, 2, 3):
        right = np.ones(SHAPE, bool)
        right[0, 0] = right[1, first] = False
        scores = TokenScores(nats=jnp.ones(SHAPE), right=jnp.asarray(right))
        _, state = objective.weights(scores, jnp.ones(SHAPE, bool), state)
    np.testing.assert_array_equal(state.anchor, [0, 3])
    np.testing.assert_array_equal(state.patience, [2, 0])
    np.testing.assert_array_equal(state.stretch, [2, 1])


def test_losses_rounded_to_bfloat16_can_fall_on_the_other_side_of_the_threshold() -> None:
    """Near ln 2 = 0.69315, bfloat16 has 0.69140625 and 0.6953125, eight significant bits, half-way at 0.693359375.

    PyTorch's losses in bfloat16 are the nearest of them: 0.6933 is above ln 2 and becomes 0.6914, below it, so the
    release counts the token as learned. 0.6934 becomes 0.6953, and so does half-way, as its last bit is even.
    """
    nats = [0.6933, 0.6934, 0.693359375, 0.6931]
    right = [False] * 4
    np.testing.assert_array_equal(weights_of(MemFTOT(), nats, right)[0], [1, 1, 1, 0])
    np.testing.assert_array_equal(weights_of(MemFTOT.release(), nats, right)[0], [0, 1, 1, 0])
    # The soft weight sees the rounded loss as well: σ(10(0.69140625 − ln 2)) = 0.495648.
    np.testing.assert_allclose(weights_of(MemFTSW.release(), nats, right)[0][0], 0.495648, rtol=1e-5)
    # What is trained is the loss itself, not the rounded one.
    objective, one = MemFTOT(threshold=0.9, losses="bfloat16"), np.zeros(SHAPE, bool)
    one[0, 0] = True
    loss, _, slope, _ = outcome(objective, np.full(SHAPE, 0.6933, np.float32), ~one, one, ())
    np.testing.assert_allclose([loss, slope[0, 0]], [0.6933, 1], rtol=1e-6)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_token_at_the_threshold_is_not_above_it(threshold: float) -> None:
    bound = np.float32(-math.log(threshold))
    nats = [bound, np.nextafter(bound, np.float32(9))]
    np.testing.assert_array_equal(weights_of(MemFTOT(threshold=threshold), nats, [False] * 2)[0], [0, 1])
