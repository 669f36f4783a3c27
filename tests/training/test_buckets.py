"""Data sets of nearly one shape share lanes and a compiled step, and no cell's numbers notice."""

from __future__ import annotations

import dataclasses
import logging

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlaw_jax.models import Base
from memlaw_jax.objectives import MemFTSW
from memlaw_jax.training import Cell, Curriculum, Frozen, OptimConfig
from memlaw_jax.training.buckets import Bucket, grouped, rounded

from . import lab
from .test_frozen import books, texts
from .test_lanes import assert_same

pytestmark = pytest.mark.usefixtures("quick_compiler")


@given(size=st.integers(1, 40_000))
def test_a_size_grows_by_an_eighth_at_most(size: int) -> None:
    assert size <= rounded(size) <= 1.125 * size
    assert rounded(rounded(size)) == rounded(size) <= rounded(size + 1)


def spread(cells: list[Cell], sets: int) -> list[Cell]:
    """Each cell on each data set."""
    return [dataclasses.replace(cell, data=data, name=f"{cell.name} {data}") for data in range(sets) for cell in cells]


def test_lengths_of_one_bucket_share_lanes_and_a_program(base: Base, caplog: pytest.LogCaptureFixture) -> None:
    """Six cells on three lengths through four lanes, the second round of which mixes lengths."""
    sets = texts(base, (40, 38, 37))  # T is 48 for all, A is 40
    cells = spread(lab.cells()[1:3], 3)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        together = lab.run(base, sets, cells, lanes=4, steps_per_dispatch=7)
    compiled = [text for text in caplog.messages if text.startswith("Finished XLA compilation of jit(run_steps)")]
    assert len(compiled) == 1, compiled
    for cell in cells:
        own = lab.run(base, sets[cell.data], [dataclasses.replace(cell, data=0)])[cell.name]
        assert_same(together[cell.name], own)
        assert own.final.nats.shape == (1, (40, 38, 37)[cell.data]) and own.token_visits == 20 * own.final.mask.sum()
        np.testing.assert_allclose(together[cell.name].initial.nats, own.initial.nats, atol=1e-5)


def test_books_of_every_size_share_lanes_where_batches_are_picked(base: Base) -> None:
    """Each keeps its own order, number of steps, visits and memory of its own samples."""
    sets = books(base, (4, 7, 6))
    optim = OptimConfig(epochs=3, batch_size=3, clip=0.8)
    window = MemFTSW(kappa=3.0, tau=1.5, window=1, floor=0.05, patience=1, expansion=1.0, cap=3.0)
    one = dataclasses.replace(lab.cells()[1], objective=window)
    curriculum = dataclasses.replace(
        one, name="curriculum", curriculum=Curriculum(ratios=(0.5, 1.0), boundaries=(1,), order="given")
    )
    cells = spread([one, curriculum], 3)
    kept = Frozen(base, one.lora)
    kept.learn(sets)
    assert len(grouped(sets, cells, optim, kept.placement, kept.source)) == 1
    together = lab.run(base, sets, cells, optim=optim, lanes=4, steps_per_dispatch=4, frozen=kept)
    for cell in cells:
        own = lab.run(base, sets[cell.data], [dataclasses.replace(cell, data=0)], optim=optim)[cell.name]
        assert_same(together[cell.name], own)
    assert [together[cell.name].steps for cell in cells] == [6, 5, 9, 7, 6, 5]


def test_other_shapes_and_other_texts_are_other_groups(base: Base) -> None:
    sets = [*texts(base, (40, 24)), lab.sequence(base, 39)]
    cells = spread(lab.cells()[1:2], 3)
    kept = Frozen(base, cells[0].lora)
    kept.learn(sets)
    optim = OptimConfig(steps=2)
    groups = grouped(sets, cells, optim, kept.placement, kept.source)
    assert [[cell.data for cell in group] for _, group in groups] == [[0], [1], [2]]
    assert groups[0][0] == groups[2][0] == Bucket(whole=True, samples=1, width=48, slots=40)  # but not the features
    assert set(lab.run(base, sets, cells, optim=optim)) == {cell.name for cell in cells}
