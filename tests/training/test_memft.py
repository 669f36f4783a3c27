"""Every method in the lanes, against the same training written out with brute-force weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from objectives.brute_force import RowMemory, only_threshold, sliding_window

from memlaw_jax.models import Base, LoraConfig
from memlaw_jax.objectives import MemFTOT, MemFTSW, Objective, Sft
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Cell, Curriculum, OptimConfig, Order, Outcome
from training import lab
from training.test_lanes import assert_as_written_out, assert_identical, assert_same

pytestmark = pytest.mark.usefixtures("quick_compiler")

# Far enough that tokens pass ½ and the window stands still, moves and grows; a rate at which all three differ.
OPTIM = OptimConfig(steps=60, batch_size=3, clip=0.8)
SW = MemFTSW(kappa=3.0, tau=1.5, window=1, floor=0.05, patience=2, expansion=1.0, cap=3.0)
OBJECTIVES: dict[str, Objective] = {
    "sft": Sft(),
    "ot": MemFTOT(),
    "ot skip": MemFTOT(threshold=0.05, when_empty="skip"),
    "ot zero": MemFTOT(threshold=0.05, when_empty="zero"),
    "sw": SW,
    "sw by row": dataclasses.replace(SW, state_of="row"),
}


def cell(name: str, seed: int = 1) -> Cell:
    objective = OBJECTIVES[name]
    return Cell(lora=LoraConfig(rank=8), seed=seed, learning_rate=2e-2, objective=objective, name=name)


def weigher(objective: Objective, samples: int, batch: int) -> lab.Weigh:
    """Brute-force weights of all samples' slots; an objective that remembers does so in here."""
    if isinstance(objective, MemFTSW):
        memory = [RowMemory() for _ in range(samples if objective.state_of == "sample" else batch)]
        constants: dict[str, Any] = dataclasses.asdict(objective)

        def slide(nats: np.ndarray, right: np.ndarray, mask: np.ndarray, rows: Sequence[int]) -> np.ndarray:
            chosen = list(rows)
            own = [memory[row] for row in chosen] if objective.state_of == "sample" else memory[: len(chosen)]
            for place in range(len(chosen), len(memory) if objective.state_of == "row" else 0):
                memory[place].__init__()  # type: ignore[misc]  # an empty row has no error
            step = sliding_window(nats[chosen], right[chosen], mask[chosen], own, **constants)
            return scattered(step.weights, chosen, mask)

        return slide
    if isinstance(objective, MemFTOT):

        def select(nats: np.ndarray, right: np.ndarray, mask: np.ndarray, rows: Sequence[int]) -> np.ndarray:
            chosen = list(rows)
            options = {"threshold": objective.threshold, "when_empty": objective.when_empty}
            return scattered(only_threshold(nats[chosen], mask[chosen], **options).weights, chosen, mask)

        return select
    return lab.mean


def scattered(weights: np.ndarray, rows: Sequence[int], mask: np.ndarray) -> np.ndarray:
    whole = np.zeros(mask.shape)
    whole[rows] = weights
    return whole


def batches(order: Order, steps: int) -> list[list[int]]:
    return [[row for row in step if row >= 0] for step in order.rows(0, steps).tolist()]


@pytest.fixture(scope="module")
def mixed(base: Base, book: Encoded) -> dict[str, Outcome]:
    """All methods side by side in one pool."""
    return lab.run(base, book, [cell(name) for name in OBJECTIVES], optim=OPTIM, steps_per_dispatch=20)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_method_among_others_trains_as_written_out(
    base: Base, book: Encoded, mixed: dict[str, Outcome], name: str
) -> None:
    objective = OBJECTIVES[name]
    order = Order(seed=1, samples=7, batch=3)
    expected = lab.reference(
        base, book, cell(name), OPTIM, batches(order, 60), weigher(objective, 7, 3), skips=objective.skips
    )
    # 60 steps at a high rate: float32 against float64 drifts further apart than in the other tests' 20.
    assert_as_written_out(mixed[name], expected, loss=2e-4, weights=2e-4, norm=2e-3)


def test_the_methods_really_differ_here(mixed: dict[str, Outcome]) -> None:
    losses = sorted((float(outcome.history.loss[-1]), name) for name, outcome in mixed.items())
    apart = [b[0] - a[0] for a, b in itertools.pairwise(losses)]
    assert min(apart) > 1e-3, losses
    active = {name: outcome.history.active for name, outcome in mixed.items()}
    assert (active["sft"] == 1).all() and (active["ot skip"] == 0).any() and (active["ot zero"] == 0).any()
    assert {outcome.token_visits for outcome in mixed.values()} == {mixed["sft"].token_visits}


@pytest.mark.parametrize("name", ["ot skip", "sw"])
def test_a_method_is_what_it_is_alone(base: Base, book: Encoded, mixed: dict[str, Outcome], name: str) -> None:
    """Neither the other objectives of the program nor the neighbours' tokens touch it."""
    alone = lab.run(base, book, [cell(name)], optim=OPTIM, steps_per_dispatch=20)[name]
    assert_same(alone, mixed[name])


def test_a_skipped_step_leaves_the_adapter_as_it_is(base: Base, book: Encoded) -> None:
    """With every token above a threshold of 10⁻⁹ from the start there is no step; plain SFT takes one."""
    skip = dataclasses.replace(cell("ot skip"), objective=MemFTOT(threshold=1e-9, when_empty="skip"), name="skip")
    zero = dataclasses.replace(cell("ot zero"), objective=MemFTOT(threshold=1e-9, when_empty="zero"), name="zero")
    outcomes = lab.run(base, book, [skip, zero, cell("sft")], optim=OptimConfig(steps=4), steps_per_dispatch=4)
    for name in ("skip", "zero"):
        assert not outcomes[name].weights["mlp"]["b"].any()
        assert (outcomes[name].history.active == 0).all() and outcomes[name].stopped == "budget"
    assert outcomes["sft"].weights["mlp"]["b"].any()


CURRICULUM = Curriculum(ratios=(0.3, 0.6, 1.0), boundaries=(3, 6), drop_last=True)


def test_a_curriculum_trains_as_written_out_and_counts_its_visits(base: Base, book: Encoded) -> None:
    optim = OptimConfig(epochs=9, batch_size=2, clip=0.8)
    one = dataclasses.replace(cell("ot skip"), curriculum=CURRICULUM)
    outcome = lab.run(base, book, [one], optim=optim, steps_per_dispatch=5)[one.name]
    order = Order(seed=1, samples=7, batch=2, curriculum=CURRICULUM)
    steps = 3 * 1 + 3 * 2 + 3 * 3  # of 7 samples: 2, 4 and 6 are read, two at a time
    assert order.steps(9) == steps == outcome.steps
    rows = batches(order, steps)
    expected = lab.reference(base, book, one, optim, rows, weigher(one.objective, 7, 2), skips=True)
    assert_as_written_out(outcome, expected)
    tokens = book.answer_mask.sum(axis=1)
    assert outcome.token_visits == sum(int(tokens[row]) for step in rows for row in step)


@pytest.mark.parametrize("stop", ["recalled", "certain"])
def test_a_cell_ends_once_it_recalls_and_no_other_does(base: Base, book: Encoded, stop: Any) -> None:
    fast, slow = cell("sft"), dataclasses.replace(cell("sft", seed=2), learning_rate=1e-5, name="slow")
    optim = OptimConfig(steps=200, schedule="constant")
    options: dict[str, Any] = {"optim": optim, "steps_per_dispatch": 10}
    stopped = lab.run(base, book, [fast, slow], stop=stop, **options)
    whole = lab.run(base, book, [fast, slow], **options)
    assert stopped["sft"].stopped == "recalled" and stopped["sft"].steps < 200
    final, history = stopped["sft"].final, whole["sft"].history
    assert final.exact_match == 1.0 and (final.fraction_above_half == 1.0 or stop == "recalled")
    # a dispatch later at most than the first step that saw it
    done = np.flatnonzero((history.exact_match if stop == "recalled" else history.above_half) == 1.0)[0]
    assert stopped["sft"].steps <= 10 * (done // 10 + 2)
    assert (stopped["slow"].stopped, stopped["slow"].steps) == ("budget", 200)
    assert_identical(stopped["slow"], whole["slow"])
