"""The curriculum over samples, against its epochs and batches walked through one by one."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlaw_jax.errors import UserError
from memlaw_jax.training.order import Curriculum, Order


@st.composite
def curricula(draw: st.DrawFn, order: str | None = None, drop_last: bool | None = None) -> Curriculum:
    """Shares in fifths or eighths: of these, the share of a whole number is exact, or rounds to the exact one."""
    parts = draw(st.sampled_from([5, 8]))
    stages = draw(st.integers(1, 5))
    shares = sorted(draw(st.lists(st.integers(1, parts), min_size=stages, max_size=stages)))
    boundaries = draw(st.lists(st.integers(1, 7), min_size=stages - 1, max_size=stages - 1, unique=True))
    return Curriculum(
        ratios=tuple(share / parts for share in shares),
        boundaries=tuple(sorted(boundaries)),
        order=order or draw(st.sampled_from(["once", "epoch", "given"])),  # type: ignore[arg-type]
        drop_last=draw(st.booleans()) if drop_last is None else drop_last,
    )


@st.composite
def orders(draw: st.DrawFn, **fixed: Any) -> Order:
    samples = draw(st.integers(1, 40))
    batch = draw(st.integers(1, samples))
    return Order(seed=draw(st.integers(0, 2**31)), samples=samples, batch=batch, curriculum=draw(curricula(**fixed)))


def line_up(order: Order) -> list[int]:
    """All samples in the order that prefixes are taken from: the seed's, whatever the batch and the stages."""
    whole = Curriculum(ratios=(1.0,), boundaries=(), order="once", drop_last=False)
    return dataclasses.replace(order, batch=1, curriculum=whole).rows(0, order.samples).ravel().tolist()


def active(order: Order, epoch: int) -> int:
    """The share of the stage that the epoch is in: whole samples, or with `drop_last` whole batches; one at least."""
    assert order.curriculum is not None
    stage = sum(1 for boundary in order.curriculum.boundaries if boundary <= epoch)
    share = Fraction(order.curriculum.ratios[stage]).limit_denominator(10)
    count = math.floor(share * order.samples)
    if order.curriculum.drop_last:
        return max(count // order.batch * order.batch, order.batch)
    return max(count, 1)


def walk(order: Order, epochs: int) -> list[list[list[int]]]:
    """The batches of each epoch, for the orders that are the same every epoch."""
    assert order.curriculum is not None
    samples = list(range(order.samples)) if order.curriculum.order == "given" else line_up(order)
    found = []
    for epoch in range(epochs):
        prefix = samples[: active(order, epoch)]
        found.append([prefix[i : i + order.batch] for i in range(0, len(prefix), order.batch)])
    return found


@given(order=orders(), epochs=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_every_epoch_reads_the_prefix_of_its_stage_in_batches(order: Order, epochs: int) -> None:
    literal = walk(order, epochs)
    assert order.steps(epochs) == sum(len(batches) for batches in literal)
    rows = iter(order.rows(0, order.steps(epochs)))
    for batches in literal:
        read = [next(rows) for _ in batches]
        padded = [batch + [-1] * (order.batch - len(batch)) for batch in batches]
        if order.curriculum.order == "epoch":  # the same samples in another order; padding stands at the end
            assert sorted(np.concatenate(read)) == sorted(np.concatenate(padded))
            assert [(row < 0).tolist() for row in read] == [[slot < 0 for slot in batch] for batch in padded]
        else:
            assert [row.tolist() for row in read] == padded


@given(order=orders(), start=st.integers(0, 60), first=st.integers(0, 12), second=st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_steps_are_the_same_taken_together_or_one_at_a_time(order: Order, start: int, first: int, second: int) -> None:
    whole = order.rows(start, first + second)
    assert whole.shape == (first + second, order.batch) and whole.dtype == np.int32
    np.testing.assert_array_equal(np.concatenate([order.rows(start, first), order.rows(start + first, second)]), whole)
    for i, row in enumerate(whole):
        np.testing.assert_array_equal(order.rows(start + i, 1)[0], row)


@given(order=orders(drop_last=True))
@settings(max_examples=40, deadline=None)
def test_with_drop_last_every_batch_is_full(order: Order) -> None:
    assert (order.rows(0, order.steps(9)) >= 0).all()


@given(order=orders(), epochs=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_later_stage_keeps_the_samples_of_an_earlier_one(order: Order, epochs: int) -> None:
    seen: set[int] = set()
    for epoch in range(epochs):
        now = order.rows(order.steps(epoch), order.steps(epoch + 1) - order.steps(epoch))
        samples = set(now[now >= 0].tolist())
        assert seen <= samples and len(samples) == (now >= 0).sum()
        seen = samples


def test_once_repeats_its_batches_and_epoch_shuffles_them() -> None:
    def epochs(order: str) -> list[list[list[int]]]:
        curriculum = Curriculum(ratios=(0.5, 1.0), boundaries=(3,), order=order)  # type: ignore[arg-type]
        rows = Order(seed=1, samples=40, batch=10, curriculum=curriculum).rows(0, 3 * 2 + 2 * 4).tolist()
        return [rows[:2], rows[2:4], rows[4:6], rows[6:10], rows[10:14]]

    first, second, third, fourth, fifth = epochs("once")
    assert first == second == third == fourth[:2] and fourth == fifth
    shuffled = epochs("epoch")
    assert len({str(rows) for rows in shuffled}) == 5
    # They are the samples of `once`, and not one batch of them shuffled in itself.
    for rows, same in zip(shuffled, (first, second, third, fourth, fifth), strict=True):
        assert sorted(np.ravel(rows)) == sorted(np.ravel(same))
        assert sorted(sorted(row) for row in rows) != sorted(sorted(row) for row in same)
    # A stage that reads as much as the one before it goes on shuffling.
    halves = Curriculum(ratios=(0.5, 0.5), boundaries=(2,), order="epoch")
    rows = Order(seed=1, samples=40, batch=20, curriculum=halves).rows(0, 6).tolist()
    assert len({str(epoch) for epoch in rows}) == 6
    assert epochs("given")[3] == np.arange(40).reshape(4, 10).tolist()


def test_seeds_draw_different_prefixes_and_the_prefix_is_no_epochs_shuffle() -> None:
    def line(seed: int) -> tuple[int, ...]:
        return tuple(line_up(Order(seed=seed, samples=30, batch=1)))

    shuffles = [tuple(Order(seed=0, samples=30, batch=30).rows(epoch, 1)[0]) for epoch in range(5)]
    assert len({line(0), line(1), tuple(range(30)), *shuffles}) == 8


def test_the_paper_s_curriculum_by_hand() -> None:
    """100 samples, batches of 8: 20, 40, 60, 80 and 100 of them are 2, 5, 7, 10 and 12 whole batches an epoch."""
    order = Order(seed=42, samples=100, batch=8, curriculum=Curriculum(drop_last=True))
    starts = {20: 40, 40: 140, 60: 280, 80: 480, 200: 1920}
    assert {epochs: order.steps(epochs) for epochs in starts} == starts
    assert order.steps(1) == 2 and order.steps(21) == 45
    # The first 16 samples until step 40, then 40 of them, … and four are never read, as in the release.
    counts = [len(np.unique(order.rows(start, 60))) for start in (0, 40, 140, 280, 480)]
    assert len(np.unique(order.rows(0, 40))) == 16 and counts[1:] == [40, 56, 80, 96]


def test_a_stage_has_one_batch_at_least_or_one_sample() -> None:
    curriculum = Curriculum(ratios=(0.01, 0.5, 1.0), boundaries=(1, 2), order="given", drop_last=True)
    order = Order(seed=0, samples=10, batch=4, curriculum=curriculum)
    assert order.rows(0, 4).tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    kept = dataclasses.replace(order, curriculum=dataclasses.replace(curriculum, drop_last=False))
    assert kept.rows(0, 6)[:, :2].tolist() == [[0, -1], [0, 1], [4, -1], [0, 1], [4, 5], [8, 9]]


@pytest.mark.parametrize(("samples", "batch"), [(10, 8), (30, 8), (5, 4), (7, 7)])
def test_every_sample_is_read_in_the_end(samples: int, batch: int) -> None:
    """Whatever the batch; and a batch of all samples reads some of them at first."""
    order = Order(seed=0, samples=samples, batch=batch, curriculum=Curriculum())
    assert set(range(samples)) <= set(order.rows(order.steps(80), math.ceil(samples / batch)).ravel().tolist())
    assert (order.rows(0, 1) >= 0).sum() == max(1, samples // 5)


def test_defaults_are_those_of_the_release_but_for_what_fills_no_batch() -> None:
    assert dataclasses.asdict(Curriculum()) == {
        "ratios": (0.2, 0.4, 0.6, 0.8, 1.0),
        "boundaries": (20, 40, 60, 80),
        "order": "once",
        "drop_last": False,
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratios": (0.5, 0.2), "boundaries": (3,)}, r"ratios \[0.5, 0.2\].*ascend"),
        ({"ratios": (0.2, 0.5, 1.0), "boundaries": (5, 3)}, r"boundaries \[5, 3\].*ascend"),
        ({"ratios": (0.2, 0.5, 1.0), "boundaries": (3, 3)}, r"boundaries \[3, 3\].*ascend"),
        ({"ratios": (0.5, 1.0), "boundaries": (3, 4)}, "2 ratios and 2 boundaries"),
        ({"ratios": (0.0, 1.0), "boundaries": (3,)}, "ratios.0 is 0.0"),
        ({"ratios": (0.5, 1.1), "boundaries": (3,)}, "ratios.1 is 1.1"),
        ({"ratios": (), "boundaries": ()}, r"ratios is \(\)"),
        ({"ratios": (0.5, 1.0), "boundaries": (0,)}, "boundaries.0 is 0"),
        ({"order": "random"}, "order is 'random'"),
        ({"shares": (1.0,)}, "no setting 'shares'"),
    ],
)
def test_an_impossible_curriculum_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Curriculum(**values)
