"""The order in which a cell reads its samples."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memlaw_jax.training.order import Order

orders = st.builds(Order, seed=st.integers(0, 2**31), samples=st.integers(1, 40), batch=st.integers(1, 45))


@given(order=orders, epoch=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_reads_every_sample_once_and_fills_up_its_last_batch_only(order: Order, epoch: int) -> None:
    steps = -(-order.samples // order.batch)
    rows = order.rows(epoch * steps, steps)
    assert rows.shape == (steps, order.batch)
    read = rows[rows >= 0]
    assert sorted(read) == list(range(order.samples))
    assert (rows.ravel()[: order.samples] >= 0).all() and (rows.ravel()[order.samples :] == -1).all()


@given(order=orders, start=st.integers(0, 30), first=st.integers(0, 20), second=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_the_order_does_not_depend_on_how_it_is_cut_into_dispatches(
    order: Order, start: int, first: int, second: int
) -> None:
    whole = order.rows(start, first + second)
    parts = [order.rows(start, first), order.rows(start + first, second)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    first, second = Order(seed=0, samples=30, batch=30).rows(0, 2)
    other = Order(seed=1, samples=30, batch=30).rows(0, 1)[0]
    assert len({tuple(rows) for rows in (first, second, other, np.arange(30))}) == 4


@given(order=orders, epochs=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_without_a_curriculum_every_epoch_is_the_shuffle_of_its_seed_and_number(order: Order, epochs: int) -> None:
    """A cell that was begun before there were curricula goes on in the order it was begun in."""
    steps = -(-order.samples // order.batch)
    assert order.steps(epochs) == epochs * steps
    for epoch in range(epochs):
        expected = np.random.default_rng([order.seed, epoch]).permutation(order.samples)
        read = order.rows(epoch * steps, steps).ravel()
        np.testing.assert_array_equal(read[: order.samples], expected)


def test_the_shuffle_of_a_seed_stays_what_it_was() -> None:
    """Records and checkpoints say the seed alone."""
    golden = [[6, 7, 2, 1], [4, 5, 3, 0], [2, 1, 4, 0], [5, 7, 6, 3]]
    assert Order(seed=3, samples=8, batch=4).rows(0, 4).tolist() == golden
