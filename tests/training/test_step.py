"""The compiled step itself, one step a dispatch, three lanes of rank 4 with random adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.models import Base, Cut, LoraConfig, init_adapter, upper_weights
from memlaw_jax.objectives import Sft
from memlaw_jax.readout import prepare
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Lane, LaneSettings, Metrics, OptimConfig, Program, new_lane, run_steps

from . import lab

pytestmark = pytest.mark.usefixtures("quick_compiler")

CLIP = 1.0
LORA = LoraConfig(rank=4)
OPTIM = OptimConfig(steps=8, clip=CLIP)
Step = Callable[..., tuple[Lane, Metrics]]


def adapters(base: Base) -> Any:
    """Three adapters whose B is not zero, so that every part of them has a gradient."""
    made = [init_adapter(base.config, LORA, jax.random.key(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
    stacked["mlp"]["b"] = 0.05 * jax.random.normal(jax.random.key(9), stacked["mlp"]["b"].shape)
    return stacked


@pytest.fixture(scope="module")
def step(base: Base, sequence: Encoded) -> Step:
    """`step(scale, total, steps)`: three lanes after `steps` steps, and the metrics `[steps, 3]` on the way."""
    program = Program(base.config, Cut.of(base.config, LORA), (Sft(),), OPTIM)
    data, upper = prepare(base, sequence, program.cut), upper_weights(base.config, base.params, program.cut)
    rows = np.zeros((1, 3, 0), np.int32)

    def run(
        scale: tuple[float, ...] = (1.0, 1.0, 1.0), total: tuple[int, ...] = (8, 8, 8), steps: int = 1
    ) -> tuple[Lane, Metrics]:
        settings = LaneSettings(
            scale=jnp.array(scale, jnp.float32),
            learning_rate=jnp.array([1e-2, 3e-3, 2e-2], jnp.float32),
            total_steps=jnp.array(total, jnp.int32),
            seed=jnp.arange(3, dtype=jnp.uint32),
            objective=jnp.zeros(3, jnp.int32),
            data=jnp.zeros(3, jnp.int32),
        )
        lanes, seen = jax.vmap(lambda weights: new_lane(program, weights, 1, 1))(adapters(base)), []
        for _ in range(steps):
            lanes, metrics = run_steps(program, lanes, settings, upper, data, rows)
            seen.append(metrics)
        return jax.device_get((lanes, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *seen)))

    return run


def lane(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_the_loss_of_a_step_is_what_numpy_gets_from_the_logits(base: Base, sequence: Encoded, step: Step) -> None:
    _, metrics = step()
    forward = jax.jit(lab.whole_logits, static_argnums=(0, 1))
    for i in range(3):
        logits = np.asarray(forward(base.config, LORA, base.params, lane(adapters(base), i), sequence.tokens))[0]
        nats, right = [], []
        for position in range(7, 28):  # the prompt is 8 tokens, 20 of the answer and 1 of the suffix follow
            scores, label = logits[position].astype(np.float64), sequence.tokens[0, position + 1]
            nats.append(np.log(np.exp(scores).sum()) - scores[label])
            right.append(scores.argmax() == label)
        # Float32 sums in another order, on losses of about 5.
        np.testing.assert_allclose(metrics.objective[0, i], np.mean(nats), atol=1e-5)
        np.testing.assert_allclose(metrics.loss[0, i], np.mean(nats[:20]), atol=1e-5)
        np.testing.assert_allclose(metrics.accuracy[0, i], np.mean(right[:20]), atol=1e-6)
    assert np.abs(metrics.objective - metrics.loss).max() > 1e-3  # the suffix is trained and not counted


def test_each_adapter_is_clipped_by_its_own_gradient(step: Step) -> None:
    """After one step Adam's first moment is (1 − β₁) times the gradient that it was given."""
    lanes, metrics = step(scale=(0.02, 1.0, 30.0))
    norms = metrics.gradient_norm[0]
    assert norms[0] < CLIP / 2 and norms[2] > 2 * CLIP
    for i in range(3):
        first = jax.tree.leaves(lanes.moments.first)
        given = np.sqrt(sum(float((leaf[i] ** 2).sum()) for leaf in first)) / (1 - 0.9)
        np.testing.assert_allclose(given, min(CLIP, norms[i]), rtol=1e-4)  # 1 − 0.9 in float32 is off by 2e-7


@pytest.mark.parametrize("scale", [1e6, np.inf, np.nan])
def test_a_neighbour_with_a_huge_gradient_changes_no_bit(step: Step, scale: float) -> None:
    (calm, calm_metrics), (wild, wild_metrics) = step(steps=3), step(scale=(scale, 1.0, 1.0), steps=3)
    assert not equal(lane(calm.weights, 0), lane(wild.weights, 0))
    for i in (1, 2):
        assert equal(lane(calm, i), lane(wild, i))
        np.testing.assert_array_equal(calm_metrics.loss[:, i], wild_metrics.loss[:, i])


def test_a_spent_lane_does_not_move(base: Base, step: Step) -> None:
    start, (lanes, metrics) = adapters(base), step(total=(2, 8, 0), steps=5)
    assert list(lanes.step) == [2, 5, 0]
    after_two, _ = step(total=(2, 8, 0), steps=2)
    assert equal(lane(lanes, 0), lane(after_two, 0)) and not equal(lane(lanes.weights, 0), lane(start, 0))
    assert equal(lane(lanes.weights, 2), lane(start, 2))
    assert not equal(lane(lanes.weights, 1), lane(after_two.weights, 1))
    assert np.isfinite(metrics.loss).all()


def test_the_rate_falls_linearly_from_the_first_step_to_none_after_the_last(base: Base, step: Step) -> None:
    """AdamW's direction does not know the schedule, so with another number of steps only the rate differs: the k-th
    update of a lane is proportional to 1 − k/total while the lanes have not moved apart, which is at k = 0 and 1."""
    one, two = step(total=(8, 8, 8), steps=1)[0], step(total=(4, 2, 8), steps=1)[0]
    assert equal(one.weights, two.weights)  # at k = 0 the whole rate, whatever the total
    first = jax.tree.map(np.subtract, one.weights, jax.device_get(adapters(base)))
    later = {total: step(total=(total, total, total), steps=2)[0].weights for total in (2, 4, 8)}
    moves = {total: jax.tree.map(np.subtract, weights, one.weights) for total, weights in later.items()}
    for a, b, c in zip(*(jax.tree.leaves(moves[total]) for total in (2, 4, 8)), strict=True):
        # Differences of weights of size 1 have an absolute error of 1e-7.
        np.testing.assert_allclose(b / (1 - 1 / 4), a / (1 - 1 / 2), atol=1e-6)
        np.testing.assert_allclose(c / (1 - 1 / 8), a / (1 - 1 / 2), atol=1e-6)
    sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves(first)]
    assert max(sizes) == pytest.approx(2e-2, rel=1e-3)  # Adam's first step is the largest lane's whole rate


def test_the_schedules(step: Step) -> None:
    rates = [float(OptimConfig(steps=5).rate(jnp.float32(2.0), jnp.int32(k), jnp.int32(5))) for k in range(5)]
    np.testing.assert_allclose(rates, [2.0, 1.6, 1.2, 0.8, 0.4], rtol=1e-6)
    constant = OptimConfig(steps=5, schedule="constant")
    assert [float(constant.rate(jnp.float32(2.0), jnp.int32(k), jnp.int32(5))) for k in (0, 4)] == [2.0, 2.0]


def test_frozen_weights_stay_what_and_where_they_are(base: Base, step: Step) -> None:
    before = jax.device_get(base.params)
    step(steps=2)
    assert equal(before, jax.device_get(base.params))


def test_a_last_smaller_batch_of_an_epoch_is_a_step_too() -> None:
    assert OptimConfig(epochs=3, batch_size=3).total_steps(7) == 9
    assert OptimConfig(epochs=3, batch_size=3).total_steps(6) == 6
    assert OptimConfig(epochs=3).total_steps(7) == 3
    assert OptimConfig(epochs=3, batch_size=100).total_steps(7) == 3
    assert OptimConfig(steps=11, batch_size=3).total_steps(7) == 11
