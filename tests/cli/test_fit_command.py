"""`memlaw fit` on a sweep's results, and `memlaw demo`, which runs both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .conftest import Memlaw, Said, records

pytestmark = pytest.mark.usefixtures("quick_compiler")

Swept = Callable[[Memlaw], tuple[Path, Said]]


def one_object(text: str) -> dict:
    """The single JSON object that `--json` promises, with no NaN in it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert len(text.splitlines()) == 1
    found = json.loads(text, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def test_a_law_its_card_and_its_figures_are_written(swept: Swept, memlaw: Memlaw, tmp_path: Path) -> None:
    folder, _ = swept(memlaw)
    out = tmp_path / "law"
    said = memlaw("fit", folder, "--out", out)
    assert said.code == 0, said.err
    written = {path for path in out.rglob("*") if path.is_file()}
    assert {out / "law.json", out / "fit_card.json"} < written
    for kind in (".png", ".svg"):
        assert sum(path.suffix == kind for path in written) >= 4  # ΔL by rank and by length, agreement, heat maps
    for path in written:
        assert path.stat().st_size > 200 and str(path) in said.out
    law = json.loads((out / "law.json").read_text())
    assert law["alpha"] > 0 and law["beta"] > 0
    assert "α" in said.out and "R²" in said.out


def test_the_words_set_unlearning_apart(swept: Swept, memlaw: Memlaw, tmp_path: Path) -> None:
    """The base starts above a uniform guess, and that part of ΔL is no memory: ln V belongs into the report."""
    folder, _ = swept(memlaw)
    assert records(folder)[0]["loss_initial"] > np.log(97)
    said = memlaw("fit", folder, "--out", tmp_path / "law")
    assert "ln V" in said.out and f"{np.log(97):.2f}" in said.out


def test_json_is_one_object_with_the_law_and_its_intervals(copy: Path, memlaw: Memlaw) -> None:
    said = memlaw("fit", copy, "--json")
    assert said.code == 0, said.err
    found = one_object(said.out)
    assert found["out"] == str(copy / "law")  # beside the results, unless told otherwise
    assert all(Path(path).exists() for path in found["files"])
    assert found["cells"] == 6 and 0 < found["r2"] <= 1
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high or name == "b", name


def test_a_table_can_be_fitted(swept: Swept, memlaw: Memlaw, tmp_path: Path) -> None:
    folder, _ = swept(memlaw)
    rows = ["rank,length,loss_initial,loss_final"]
    rows += [f"{r['rank']},{r['length']},{r['loss_initial']},{r['loss_final']}" for r in records(folder)]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    from_table = one_object(memlaw("fit", tmp_path / "table.csv", "--json").out)
    from_folder = one_object(memlaw("fit", folder, "--out", tmp_path / "other", "--json").out)
    assert (tmp_path / "law" / "law.json").exists()
    for name in ("alpha", "beta", "b"):
        assert from_table[name] == pytest.approx(from_folder[name], rel=1e-9)


@pytest.fixture
def small_demo(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's road on the tiny grid."""
    from memlaw_jax.cli import demo

    monkeypatch.setattr(demo, "CONFIG", config)


@pytest.mark.usefixtures("small_demo")
def test_the_demo_walks_the_whole_road(memlaw: Memlaw, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said = memlaw("demo", "--out", out, "--json")
    assert said.code == 0, said.err
    found = one_object(said.out)
    assert {"r2", "alpha", "beta", "b", "cells", "seconds"} <= set(found)
    assert {"alpha", "beta", "b"} <= set(found["intervals"])
    assert found["cells"] == 6 == len(records(out)) and found["seconds"] > 0
    assert (out / "law" / "law.json").exists() and all(Path(path).exists() for path in found["files"])
    again = memlaw("demo", "--out", out)  # resumed: nothing is left to train
    assert again.code == 0 and "law" in again.out and str(out / "results.jsonl") in again.out


def test_the_demos_grid_is_large_enough_for_its_claim() -> None:
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.cli.demo import CONFIG

    config = read_config(CONFIG)
    assert len(set(config.ranks)) >= 5 and len(set(config.lengths)) >= 5 and config.task["ratio"] == 1.0


@pytest.mark.slow
def test_the_demo_finds_the_law(memlaw: Memlaw, tmp_path: Path) -> None:
    """The real demo, minutes long: a fit as good as the paper's on at least 25 unsaturated cells."""
    found = one_object(memlaw("demo", "--out", tmp_path, "--json").out)
    assert found["cells"] >= 25 and found["r2"] >= 0.98
    for name in ("alpha", "beta"):
        low, high = found["intervals"][name]
        assert 0 < low < found[name] < high < 2
