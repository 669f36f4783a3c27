"""Dropout on an adapter's output: the release's, in training only, drawn from the cell's own seed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax import UserError
from memlaw_jax.models import Base, Cut, Dropout, LoraConfig, frozen_features, run_upper, upper_weights
from memlaw_jax.models.lora import PATHS
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Cell, OptimConfig

from . import lab

RATE = 0.3
LINEAR = tuple(target for target in PATHS if target != "mlp")


def cells(dropout: float, targets: tuple[str, ...] = ("mlp",), **lora: object) -> list[Cell]:
    return [
        Cell(
            lora=LoraConfig(rank=rank, targets=targets, dropout=dropout, **lora),  # type: ignore[arg-type]
            seed=rank,
            learning_rate=1e-2,
            name=f"r{rank}",
        )
        for rank in (1, 2, 4)
    ]


def test_it_keeps_the_mean_and_drops_the_share_that_it_says():
    x = jnp.ones((400, 250))
    y = np.asarray(Dropout(key=jax.random.key(0), rate=RATE)(x))
    share, error = (y == 0).mean(), 4 * np.sqrt(RATE * (1 - RATE) / y.size)
    assert abs(share - RATE) < error
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - RATE)], rtol=1e-6)


@pytest.mark.parametrize("targets", [("mlp",), pytest.param(LINEAR, marks=pytest.mark.slow)])
def test_only_the_adapters_output_is_dropped(base: Base, sequence: Encoded, targets: tuple[str, ...]):
    """An adapter of zeros adds nothing to drop: the frozen model has no dropout of its own."""
    lora = LoraConfig(rank=2, targets=targets, layers=(2,))
    cut = Cut.of(base.config, lora)
    tokens = jnp.asarray(sequence.tokens)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    features = frozen_features(base.config, base.params, cut, tokens, positions)
    upper = upper_weights(base.config, base.params, cut)

    def run(b: float, dropout: Dropout | None) -> np.ndarray:
        weights: dict = {}
        for target in targets:
            module = weights
            for name in PATHS[target]:
                module = module.setdefault(name, {})
            d_in, d_out = base.config.linear_shape(target)
            module["a"], module["b"] = jnp.ones((1, d_in, 2)) / d_in, jnp.full((1, 2, d_out), b)
        return np.asarray(run_upper(base.config, upper, cut, features, positions, weights, dropout=dropout))

    drops = [Dropout(key=jax.random.key(seed), rate=RATE) for seed in (0, 0, 1)]
    np.testing.assert_allclose(run(0.0, drops[0]), run(0.0, None), atol=1e-5)  # two programs: float32 rounding
    dropped = [run(0.1, drop) for drop in drops]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3
    assert np.abs(dropped[0] - run(0.1, None)).max() > 1e-3


def test_without_dropout_nothing_is_drawn(base: Base, sequence: Encoded):
    plain, never = lab.run(base, sequence, cells(0.0)), lab.run(base, sequence, cells(0.0))
    for name, outcome in plain.items():
        np.testing.assert_array_equal(outcome.history.loss, never[name].history.loss)


@pytest.mark.parametrize("targets", [("mlp",), pytest.param(("q_proj", "down_proj"), marks=pytest.mark.slow)])
def test_a_cells_draws_are_its_own(base: Base, sequence: Encoded, targets: tuple[str, ...]):
    """The same in any lane and with any neighbours, another with another seed."""
    todo = cells(RATE, targets)
    together = lab.run(base, sequence, todo)
    turned = lab.run(base, sequence, todo[::-1], steps_per_dispatch=7)
    (alone,) = lab.run(base, sequence, todo[1:2]).values()
    for cell in todo:
        np.testing.assert_allclose(
            together[cell.name].history.loss, turned[cell.name].history.loss, rtol=1e-4, atol=2e-5
        )
    np.testing.assert_allclose(together["r2"].history.loss, alone.history.loss, rtol=1e-4, atol=2e-5)
    assert (
        np.abs(together["r2"].history.loss - lab.run(base, sequence, cells(0.0, targets))["r2"].history.loss).max()
        > 1e-3
    )


def test_the_verification_has_no_dropout(base: Base, sequence: Encoded):
    """With no step to take, the final report is the initial one to the last bit, whatever the dropout."""
    outcome = lab.run(base, sequence, cells(RATE)[:1], optim=OptimConfig(steps=1, learning_rate=1e-2))["r1"]
    np.testing.assert_array_equal(outcome.initial.nats, lab.run(base, sequence, cells(0.0)[:1])["r1"].initial.nats)


def test_cells_of_other_dropout_are_not_mixed(base: Base, sequence: Encoded):
    with pytest.raises(UserError, match="dropout"):
        lab.run(base, sequence, [cells(0.0)[0], cells(RATE)[1]])
