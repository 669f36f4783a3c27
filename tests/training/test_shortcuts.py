"""Cells that end early and cells that are left out: options that change no other cell and say what they did."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import memlaw_jax as ml
from memlaw_jax.models import Base
from memlaw_jax.training import OptimConfig, SweepConfig
from memlaw_jax.training.saturation import LN2, Saturation

pytestmark = pytest.mark.usefixtures("quick_compiler")

GRID: dict[str, Any] = {"ranks": (1, 8, 16), "lengths": (8, 30), "seeds": (0, 1), "optim": OptimConfig(steps=120)}


@pytest.fixture(scope="module")
def whole(base: Base, tmp_path_factory: pytest.TempPathFactory) -> ml.training.SweepResults:
    """Every cell to the end."""
    return ml.sweep(base, {"kind": "long_context"}, out=tmp_path_factory.mktemp("whole"), lanes=4, **GRID)


@pytest.fixture(scope="module")
def short(base: Base, tmp_path_factory: pytest.TempPathFactory) -> ml.training.SweepResults:
    """With both shortcuts."""
    out = tmp_path_factory.mktemp("short")
    return ml.sweep(
        base,
        {"kind": "long_context"},
        out=out,
        lanes=4,
        stop="recalled",
        skip="saturated",
        steps_per_dispatch=20,
        **GRID,
    )


def by_place(records: list[dict[str, Any]]) -> dict[tuple[int, int, int], dict[str, Any]]:
    return {(record["rank"], record["length"], record["seed"]): record for record in records}


def test_what_is_skipped_would_have_been_saturated_and_has_no_record(whole: Any, short: Any) -> None:
    full, found = by_place(whole.records), by_place(short.records)
    skipped = by_place(short.skipped)
    assert set(full) == set(found) | set(skipped) and not set(found) & set(skipped)
    assert {(16, 8, 0), (16, 8, 1)} <= set(skipped)
    for place, cell in skipped.items():
        assert full[place]["loss_final"] <= LN2
        shown = [record for record in short.records if record["cell_id"] in cell["shown_by"]]
        assert len(shown) == 2  # both seeds
        assert all(record["rank"] <= place[0] and record["length"] >= place[1] for record in shown)
    assert json.loads((Path(short.directory) / "skipped.json").read_text()) == short.skipped


def test_a_cell_that_ends_early_recalls_everything_and_says_so(short: Any) -> None:
    early = [record for record in short.records if record["stopped"] == "recalled"]
    assert early and all(record["exact_match"] == 1.0 and record["steps"] < 120 for record in early)
    assert {record["stop"] for record in short.records} == {"recalled"}
    assert {record["skip"] for record in short.records} == {"saturated"}


def test_a_cell_that_runs_to_the_end_has_the_same_numbers(whole: Any, short: Any) -> None:
    full, compared = by_place(whole.records), 0
    for place, record in by_place(short.records).items():
        if record["stopped"] == "budget":
            compared += 1
            # other neighbours and dispatches: float32 sums in another order over 120 steps, on losses of about 3
            assert record["loss_final"] == pytest.approx(full[place]["loss_final"], abs=2e-4)
            assert record["loss_initial"] == pytest.approx(full[place]["loss_initial"], abs=1e-5)
    assert compared >= 4


def test_a_sweep_without_skipping_runs_what_was_skipped(base: Base, short: Any) -> None:
    config = GRID | {"stop": "recalled", "steps_per_dispatch": 20, "lanes": 4}
    before = len(short.records)
    after = ml.sweep(base, {"kind": "long_context"}, out=short.directory, **config)
    assert len(after.records) == 12 == before + len(short.skipped) and not after.skipped


def planned(name: str, rank: int, length: int, seed: int = 0, method: str = "sft", rate: float = 0.01) -> Any:
    cell = SimpleNamespace(lora=SimpleNamespace(rank=rank), seed=seed, learning_rate=rate)
    return SimpleNamespace(id=name, cell=cell, length=length, method=SimpleNamespace(name=method))


def test_one_seed_that_is_not_saturated_shows_nothing() -> None:
    cells = [planned("a", 4, 100, 0), planned("b", 4, 100, 1), planned("higher", 8, 100), planned("longer", 4, 200),
             planned("lower", 2, 50), planned("shorter", 4, 50), planned("other", 8, 50, method="memft-ot"),
             planned("faster", 8, 50, rate=0.02)]  # fmt: skip
    grid: Any = SimpleNamespace(
        cells=cells, encoded={length: SimpleNamespace(answer_tokens=length) for length in (50, 100, 200)}
    )

    def shown(*losses: float | None) -> list[str]:
        records = [{"cell_id": name, "loss_final": loss} for name, loss in zip("ab", losses, strict=False)]
        saturation = Saturation(grid, records)
        return [cell.id for cell in cells if saturation.shows(cell)]

    assert shown(0.1, 0.6) == ["higher", "shorter"]
    assert shown(0.1) == shown(0.1, 0.7) == shown(0.1, None) == []


@pytest.mark.parametrize("shortcut", [{"stop": "recalled"}, {"stop": "certain"}, {"skip": "saturated"}])
def test_the_papers_protocol_takes_no_shortcut(shortcut: dict[str, Any]) -> None:
    ((key, value),) = shortcut.items()
    given: dict[str, Any] = {"task": {"kind": "long_context"}, "ranks": (1, 2)}
    with pytest.raises(ml.UserError, match=f"every cell to the end, and {key} is {value}"):
        SweepConfig(protocol="paper", **given, **shortcut)
    assert getattr(SweepConfig(protocol="standard", **given, **shortcut), key) == value
    assert SweepConfig(**given).skip == "none" and SweepConfig(**given).stop == "budget"
