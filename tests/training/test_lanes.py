"""The multi-rank trainer: every adapter's numbers are those it would have alone, whatever it shares a batch with.

Tolerances: batching, padding and caching only regroup float32 sums, which costs a few roundings of 6e-7 (losses are
about 5) a step; Adam divides by the gradient's own size and so neither shrinks nor grows the relative error. Measured
after 20 steps: 1e-6 in the losses, 2e-6 of the weights' norm. The cells themselves differ by more than 0.1 nats.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.objectives import Sft
from memlaw_jax.readout import recall
from memlaw_jax.tasks import Encoded, Sample
from memlaw_jax.training import Cell, OptimConfig, Outcome, Placement
from memlaw_jax.training.order import Order

from . import lab

pytestmark = pytest.mark.usefixtures("quick_compiler")

LOSS, WEIGHTS = 2e-5, 2e-5
Together = Callable[[], dict[str, Outcome]]


def assert_same(found: Outcome, expected: Outcome) -> None:
    np.testing.assert_allclose(found.history.loss, expected.history.loss, atol=LOSS, rtol=0)
    np.testing.assert_allclose(found.final.nats, expected.final.nats, atol=10 * LOSS, rtol=0)  # single tokens
    np.testing.assert_array_equal(found.final.right, expected.final.right)
    assert lab.distance(found.weights, expected.weights) < WEIGHTS
    assert (found.steps, found.token_visits, found.stopped) == (expected.steps, expected.token_visits, expected.stopped)


def assert_identical(found: Outcome, expected: Outcome) -> None:
    jax.tree.map(np.testing.assert_array_equal, found.weights, expected.weights)
    np.testing.assert_array_equal(found.history.loss, expected.history.loss)
    np.testing.assert_array_equal(found.history.gradient_norm, expected.history.gradient_norm)
    np.testing.assert_array_equal(found.final.nats, expected.final.nats)


def assert_as_written_out(
    found: Outcome, expected: lab.Reference, loss: float = LOSS, weights: float = WEIGHTS, norm: float = 1e-5
) -> None:
    objective, mean, accuracy, gradient_norm = expected.seen.T
    np.testing.assert_allclose(found.history.objective, objective, atol=loss, rtol=0)
    np.testing.assert_allclose(found.history.loss, mean, atol=loss, rtol=0)
    np.testing.assert_array_equal(found.history.accuracy, accuracy.astype(np.float32))
    np.testing.assert_allclose(found.history.gradient_norm, gradient_norm, rtol=norm)
    assert lab.distance(found.weights, expected.weights) < weights


def test_the_cells_of_these_tests_really_differ(together: Together) -> None:
    losses = np.sort([outcome.history.loss[-1] for outcome in together().values()])
    assert np.diff(losses).min() > 100 * LOSS and losses.max() < 5 and losses.min() < 4


@pytest.mark.parametrize("index", [0, 1, 2], ids=["rank 1", "rank 3", "rank 8"])
def test_a_lane_trains_as_a_full_forward_pass_and_plain_adamw_would(
    base: Base, sequence: Encoded, together: Together, index: int
) -> None:
    """The cut, its cached features, the rank's padding, the lanes and the scan change no number; nor is the update
    anything but AdamW with a linear decay from the first step and a clip of this adapter's own gradient."""
    cell = lab.cells()[index]
    expected = lab.reference(base, sequence, cell, lab.OPTIM, [[0]] * 20)
    assert_as_written_out(together()[cell.name], expected)


EPOCHS = dataclasses.replace(lab.OPTIM, steps=None, epochs=3, batch_size=3)


def batches(seed: int, samples: int = 7) -> list[Sequence[int]]:
    """3 epochs of 3, 3 and 1 samples."""
    rows = Order(seed=seed, samples=samples, batch=3).rows(0, 9)
    return [[row for row in step if row >= 0] for step in rows.tolist()]


@pytest.fixture(scope="module")
def linear(base: Base, book: Encoded) -> dict[str, Outcome]:
    """Adapters of two linear layers in every block, in mini-batches of a set of records."""
    return lab.run(base, book, lab.cells(lab.LINEAR)[:3], optim=EPOCHS, steps_per_dispatch=5)


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), 1, 2], ids=["rank 1", "rank 3", "rank 8"])
def test_mini_batches_and_linear_targets_train_as_written_out(
    base: Base, book: Encoded, linear: dict[str, Outcome], index: int
) -> None:
    """Each lane reads its own samples; the rows that fill up an epoch's last batch change nothing."""
    cell = lab.cells(lab.LINEAR)[index]
    assert [len(batch) for batch in batches(cell.seed)] == [3, 3, 1] * 3
    expected = lab.reference(base, book, cell, EPOCHS, batches(cell.seed))
    assert_as_written_out(linear[cell.name], expected)


def test_token_visits_count_every_answer_token_once_an_epoch(
    book: Encoded, linear: dict[str, Outcome], sequence: Encoded, together: Together
) -> None:
    for outcome in linear.values():
        assert outcome.token_visits == 3 * (1 + 2 + 3 + 4 + 1 + 2 + 3) == 3 * book.answer_tokens
        assert outcome.steps == 9 == len(outcome.history.loss)
    for outcome in together().values():
        assert outcome.token_visits == 20 * 20 and outcome.steps == 20 == len(outcome.history.loss)


def test_an_adapter_in_a_batch_equals_the_one_trained_alone(base: Base, sequence: Encoded, together: Together) -> None:
    cell = lab.cells()[1]
    alone = lab.run(base, sequence, [cell])
    assert_same(alone[cell.name], together()[cell.name])
    assert alone[cell.name].weights["mlp"]["a"].shape == (1, 64, 3)


def test_the_order_of_the_cells_changes_nothing(base: Base, sequence: Encoded, together: Together) -> None:
    cells = lab.cells()
    turned = lab.run(base, sequence, [cells[i] for i in (3, 0, 4, 2, 1)])
    for name, outcome in together().items():
        assert_same(turned[name], outcome)


@dataclass(frozen=True)
class Counting:
    """Sft that counts how often it is traced."""

    name: ClassVar[str] = "counting"
    state_of: ClassVar[str] = "sample"
    skips: ClassVar[bool] = False
    traces: list[int] = field(default_factory=lambda: [0], compare=False)

    def init(self, rows: int) -> Any:
        return ()

    def weights(self, scores: Any, mask: Any, state: Any) -> Any:
        self.traces[0] += 1
        return Sft().weights(scores, mask, state)


def test_fewer_lanes_refilled_with_other_dispatches_change_nothing_and_compile_once(
    base: Base, sequence: Encoded, together: Together, caplog: pytest.LogCaptureFixture
) -> None:
    """Five cells through two lanes, in dispatches of 7 steps, the last of which goes beyond the 20 steps."""
    objective, seen = Counting(), []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        outcomes = lab.run(
            base,
            sequence,
            [dataclasses.replace(cell, objective=objective) for cell in lab.cells()[::-1]],
            lanes=2,
            steps_per_dispatch=7,
            listen=lambda cell, step, metrics: seen.append((cell.name, step, len(metrics.loss), objective.traces[0])),
        )
    assert {name: [(step, count) for cell, step, count, _ in seen if cell == name] for name in outcomes} == {
        f"cell {seed}": [(0, 7), (7, 7), (14, 6)] for seed in range(5)
    }
    # Traced for the first dispatch, and never again in 9 dispatches and 3 refills; the same in the compiler's own log.
    assert objective.traces[0] > 0 and {traces for *_, traces in seen} == {objective.traces[0]}
    compiled = [text for text in caplog.messages if text.startswith("Finished XLA compilation of jit(run_steps)")]
    assert len(compiled) == 1, compiled
    for name, outcome in together().items():
        assert_same(outcomes[name], outcome)


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_lane_that_blows_up_is_told_and_its_neighbours_never_notice(
    base: Base, sequence: Encoded, together: Together, rate: float
) -> None:
    """The same compiled step on the same neighbours must give the same bits."""
    cells = lab.cells()
    cells[1] = dataclasses.replace(cells[1], learning_rate=rate)
    outcomes = lab.run(base, sequence, cells)
    for name, outcome in together().items():
        if name != cells[1].name:
            assert_identical(outcomes[name], outcome)
    blown = outcomes[cells[1].name]
    assert blown.stopped == "diverged", blown.final.loss
    assert blown.steps == 10 == len(blown.history.loss)  # at the end of the dispatch in which it happened


def test_a_lane_that_blows_up_in_its_last_step_is_told_too(base: Base, sequence: Encoded) -> None:
    cell = Cell(lora=LoraConfig(rank=8), seed=2, learning_rate=1e38)
    (outcome,) = lab.run(base, sequence, [cell], optim=OptimConfig(steps=1)).values()
    assert not np.isfinite(outcome.final.loss)
    assert outcome.stopped == "diverged"


def test_a_fresh_adapter_scores_as_the_base_does(base: Base, sequence: Encoded, together: Together) -> None:
    logits = np.asarray(base.logits(sequence.tokens), np.float64)[0, sequence.answer_index[0]]
    nats = np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, sequence.labels[0][:, None], 1)[:, 0]
    for outcome in together().values():
        np.testing.assert_allclose(outcome.initial.nats[0], nats, atol=LOSS)
        np.testing.assert_allclose(outcome.history.loss[0], outcome.initial.loss, atol=LOSS)


def test_a_finished_cell_is_reported_with_the_weights_it_ends_with(
    base: Base, sequence: Encoded, together: Together
) -> None:
    """Trimmed to its own rank, an outcome's adapter recalls what its report says."""
    cell = lab.cells()[2]
    outcome = together()[cell.name]
    layers = cell.lora.adapted_layers(base.config)
    adapter = Adapter(lora=cell.lora, layers=layers, weights=outcome.weights, model="", model_fingerprint="")
    start, end = 8, 8 + 20
    tokens = tuple(int(token) for token in sequence.tokens[0])
    sample = Sample(key="one", prompt=tokens[:start], answer=tokens[start:end], suffix=tokens[end : end + 1])
    report = recall(base, adapter, [sample])
    np.testing.assert_allclose(report.nats, outcome.final.nats, atol=10 * LOSS)
    assert report.loss < outcome.initial.loss - 0.5


def test_an_adapter_of_high_rank_recalls_a_short_sequence(base: Base, sequence: Encoded) -> None:
    cells = [Cell(lora=LoraConfig(rank=rank), learning_rate=1e-2, name=str(rank)) for rank in (1, 24)]
    outcomes = lab.run(base, sequence, cells, optim=OptimConfig(steps=200), steps_per_dispatch=100)
    assert outcomes["24"].final.exact_match == 1.0
    assert outcomes["24"].initial.exact_match == 0.0 == outcomes["1"].final.exact_match
    assert outcomes["24"].final.loss < outcomes["1"].final.loss


def test_cells_that_cannot_share_a_step_are_refused(base: Base, sequence: Encoded) -> None:
    one, other = lab.cells()[0], lab.cells(lab.LINEAR)[0]
    with pytest.raises(UserError, match="targets"):
        lab.run(base, sequence, [one, other])
    with pytest.raises(UserError, match="65"):
        lab.run(base, sequence, [dataclasses.replace(one, lora=LoraConfig(rank=65))])
    assert lab.run(base, sequence, []) == {}


def test_another_peak_rate_or_number_of_steps_needs_no_other_program(base: Base, sequence: Encoded) -> None:
    """Rates and totals are arguments of the step: `ml.train` in a loop over either must not compile each time."""
    objective, traces = Counting(), []
    cell = Cell(lora=LoraConfig(rank=2), learning_rate=1e-2, objective=objective, name="one")
    for optim in (OptimConfig(steps=4, learning_rate=1e-2), OptimConfig(steps=8, learning_rate=3e-3)):
        lab.run(base, sequence, [cell], optim=optim, steps_per_dispatch=4)
        traces.append(objective.traces[0])
    assert traces[0] == traces[1] > 0


@pytest.mark.parametrize("step", ["frozen.features_of", "pool.verify", "pool.run_steps"])
def test_a_device_without_memory_is_told_in_one_sentence(
    base: Base, sequence: Encoded, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Memory can run out wherever arrays are made: features, verification or training."""

    def full(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(f"memlaw_jax.training.{step}", full)
    with pytest.raises(UserError, match="no memory for lanes 4"):
        lab.run(base, sequence, lab.cells(), lanes=4)


def test_nothing_crosses_between_host_and_device_inside_a_dispatch(
    base: Base, book: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard stands around every dispatch; rows that are still on the host are refused by it."""
    cells, optim = lab.cells()[:2], OptimConfig(steps=2, batch_size=3)
    assert lab.run(base, book, cells, optim=optim)
    original = Placement.spread
    monkeypatch.setattr(Placement, "spread", lambda self, tree, axis=0: tree if axis else original(self, tree))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        lab.run(base, book, cells, optim=optim)
