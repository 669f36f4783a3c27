"""Frozen features: made once, shared by all that may share them, and the same numbers as without them."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import memlaw_jax as ml
from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, LoraConfig, load_base
from memlaw_jax.models.base import DEVICE, HOST
from memlaw_jax.tasks import Encoded, Sample, pad
from memlaw_jax.training import Cell, Frozen, OptimConfig, frozen, pool, train_cells

from . import lab
from .test_lanes import assert_identical, assert_same

pytestmark = pytest.mark.usefixtures("quick_compiler")


def texts(base: Base, lengths: tuple[int, ...]) -> list[Encoded]:
    """The first tokens of one sequence, without a suffix: shorter ones are prefixes of longer ones."""
    draw = [int(token) for token in np.random.default_rng(3).integers(0, 95, 8 + max(lengths))]
    made = [Sample(key="one", prompt=tuple(draw[:8]), answer=tuple(draw[8 : 8 + length])) for length in lengths]
    return [pad([sample], pad_id=base.pad_id) for sample in made]


def books(base: Base, counts: tuple[int, ...]) -> list[Encoded]:
    """The first records of one book."""
    book = lab.book(base, max(counts))
    kept = [{name: leaf[:count] for name, leaf in vars(book).items()} for count in counts]
    return [dataclasses.replace(book, **leaves) for leaves in kept]


TARGETS: dict[str, dict[str, Any]] = {
    "mlp": {"targets": ("mlp",)},
    "mlp in two layers": {"targets": ("mlp",), "layers": (1, 3)},
    "linear above": {"targets": lab.LINEAR, "layers": (2, 3)},
    "linear everywhere": {"targets": lab.LINEAR},
}


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("mlp", "float32"),
        ("mlp", "bfloat16"),
        pytest.param("linear above", "float32", marks=slow),
        pytest.param("mlp in two layers", "float32", marks=slow),
        pytest.param("linear everywhere", "float32", marks=slow),
        pytest.param("linear above", "bfloat16", marks=slow),
    ],
)
def test_with_and_without_them_training_is_the_same(tiny_dir: Path, kind: str, dtype: str) -> None:
    """The uncached side runs every block from the embeddings on, each step. In float32 the same products are summed in
    other orders, as in test_lanes. In bfloat16, whose rounding is 2⁻⁹, features are what the uncached pass rounds at
    the same places; the two differ by how XLA fuses what is between, and 20 steps of Adam follow small differences.
    """
    base = load_base(str(tiny_dir), dtype)
    cells = [
        dataclasses.replace(cell, lora=dataclasses.replace(cell.lora, **TARGETS[kind])) for cell in lab.cells()[1:3]
    ]
    encoded = lab.sequence(base)
    found = lab.run(base, encoded, cells, frozen=Frozen(base, cells[0].lora))
    expected = lab.run(base, encoded, cells, frozen=Frozen(base, cells[0].lora, cached=False))
    for name, outcome in expected.items():
        if dtype == "float32":
            assert_same(found[name], outcome)
            # the gradient before anything could add up: 8 units in the last place of its norm
            norms = [either[name].history.gradient_norm[0] for either in (found, expected)]
            np.testing.assert_allclose(*norms, rtol=8 * 2.0**-23)
        else:
            np.testing.assert_allclose(found[name].history.loss, outcome.history.loss, atol=0.05)
            np.testing.assert_allclose(found[name].history.loss[0], outcome.history.loss[0], atol=0.02)
    assert min(outcome.history.loss[-1] for outcome in expected.values()) < 4.5  # they did learn


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all token arrays that features are computed of from now on."""
    shapes: list[tuple[int, ...]] = []
    original = frozen.features_of

    def count(base: Base, cut: Any, tokens: np.ndarray) -> Any:
        shapes.append(tokens.shape)
        return original(base, cut, tokens)

    monkeypatch.setattr(frozen, "features_of", count)
    return shapes


def test_one_pass_serves_every_length_rank_and_method(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = counted(monkeypatch)
    sets = texts(base, (12, 40, 25))
    cells = [
        dataclasses.replace(cell, data=data, name=f"{cell.name} {data}")
        for cell in lab.cells()[1:3]
        for data in range(3)
    ]
    together = lab.run(base, sets, cells)
    assert shapes == [(1, 48)] and len(together) == 6
    for cell in cells[:2]:
        own = lab.run(base, sets[cell.data], [dataclasses.replace(cell, data=0)])
        assert_same(together[cell.name], own[cell.name])


def test_a_shorter_book_is_served_by_the_longer_one(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = counted(monkeypatch)
    source = Frozen(base, LoraConfig())
    small, large = books(base, (3, 7))
    source.learn([small, large])
    assert len(shapes) == 1 and source.source(small) == source.source(large) == 0
    other = dataclasses.replace(small, tokens=(small.tokens + 1) % 90)
    assert source.source(other) == 1 and len(shapes) == 2


def test_a_suffix_in_another_place_is_no_prefix(base: Base) -> None:
    """Every task but long context ends a sample with the end of the turn."""
    long, short = lab.sequence(base, 20), lab.sequence(base, 12)
    assert not short.begins(long) and long.begins(long) and not long.begins(short)


def test_what_has_no_room_on_the_device_waits_in_the_hosts_memory(base: Base) -> None:
    sets, cell = texts(base, (40, 12)), lab.cells()[1]
    near, far = (Frozen(base, cell.lora, room=room) for room in (1 << 30, 0))
    found = [lab.run(base, sets, [dataclasses.replace(cell, data=1)], frozen=kept) for kept in (near, far)]
    for kept, memory in ((near, DEVICE), (far, HOST)):
        ((_, features),) = kept._sources
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(features)} == {memory}
        assert features.hidden.dtype == np.float32
    assert_identical(*(outcomes[cell.name] for outcomes in found))


def device_bytes() -> int:
    gc.collect()
    return sum(leaf.nbytes for leaf in jax.live_arrays() if leaf.sharding.memory_kind == DEVICE)


def test_weights_below_the_cut_leave_the_device_and_the_base_goes_on_working(tiny_dir: Path) -> None:
    base = load_base(str(tiny_dir))
    tokens = lab.sequence(base).tokens
    expected = np.asarray(base.logits(tokens))
    kept = Frozen(base, LoraConfig(layers=(2,)))
    assert kept.upper.head is not None  # made when first asked for
    before = device_bytes()
    with base.spilled():
        freed = before - device_bytes()
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(base.params))
        above = kept.upper.norm["scale"].nbytes + kept.upper.head.nbytes  # still held by what training uses
        assert freed >= whole - above
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(base.params)} == {HOST}
        np.testing.assert_array_equal(base.logits(tokens), expected)
        assert device_bytes() < before - freed + 10_000  # what the logits borrowed is gone again
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(base.params)} == {DEVICE}
    np.testing.assert_array_equal(base.logits(tokens), expected)


def test_a_sweep_leaves_the_base_as_it_was(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are in the host's memory while it trains, and back even where it is broken off."""
    seen: list[str] = []
    original = pool.run_steps

    def look(*arguments: Any, **options: Any) -> Any:
        seen.append(base.params["norm"]["scale"].sharding.memory_kind)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(pool, "run_steps", look)
    with pytest.raises(KeyboardInterrupt):
        ml.sweep(base, {"kind": "long_context"}, ranks=(1,), lengths=(8,), out=tmp_path, optim=OptimConfig(steps=60))
    gc.collect()
    assert seen == [HOST, HOST]
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(base.params)} == {DEVICE}


def test_features_of_another_cut_or_base_are_refused(base: Base, tiny_dir: Path, sequence: Encoded) -> None:
    cell = Cell(lora=LoraConfig(layers=(1,)), learning_rate=1e-2)
    for kept in (Frozen(base, LoraConfig(layers=(2,))), Frozen(load_base(str(tiny_dir)), cell.lora)):
        with pytest.raises(UserError, match="another base or another cut"):
            next(train_cells(base, sequence, [cell], optim=lab.OPTIM, frozen=kept))
    higher = dataclasses.replace(cell, lora=LoraConfig(layers=(1,), rank=3))
    assert list(train_cells(base, sequence, [higher], optim=lab.OPTIM, frozen=Frozen(base, cell.lora)))
