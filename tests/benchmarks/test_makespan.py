"""The makespan benchmark: its table, its resumption, and the whole of it on a tiny grid."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import BENCHMARKS


def law(alpha: float, beta: float) -> dict[str, Any]:
    intervals = {"alpha": [0.4, 0.6], "beta": [0.3, 0.5], "b": [0.0, 2.0]}
    return {"alpha": alpha, "beta": beta, "b": 1.0, "used": 14, "rmse": 0.1, "intervals": intervals}


def road(seconds: float, law: dict[str, Any]) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "cpu_seconds": seconds / 2,
        "cells": 20,
        "skipped": 10,
        "unsaturated": 15,
        "steps": 8000,
        "law": law,
    }


def test_the_table_compares_makespans_and_laws():
    from makespan_report import compare, table

    usual = law(0.5, 0.4)
    found = {"ours": road(50.0, usual), "plain": road(200.0, law(0.7, 0.4)), "released": road(600.0, usual)}
    ours, plain = compare(found)
    assert ours["times_as_fast"] == 12.0 and plain["times_as_fast"] == 3.0
    assert ours["alpha"] == {"ours_within_released": True, "released_within_ours": True}
    assert plain["alpha"] == {"ours_within_released": False, "released_within_ours": True}
    lines = table(found).splitlines()
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert any(
        line.startswith("- ours: 12.0 times as fast as the released procedure (wanted ≥ 8: met);") for line in lines
    )
    assert "- plain: α of each does NOT lie within the other's interval." in lines


def test_a_grid_that_cannot_be_fitted_is_told():
    from makespan_report import compare, table

    found = {"ours": road(50.0, {"unfitted": "fewer than 5 cells"}), "released": road(600.0, law(0.5, 0.4))}
    assert "alpha" not in compare(found)[0]
    assert "no law" in table(found)


def test_a_folder_of_another_grid_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from makespan import Mistake, claim

    claim(tmp_path / "out", {"ranks": [1]})
    claim(tmp_path / "out", {"ranks": [1]})
    with pytest.raises(Mistake, match="another grid"):
        claim(tmp_path / "out", {"ranks": [2]})
    (tmp_path / "file").write_text("")
    with pytest.raises(Mistake, match="cannot write"):
        claim(tmp_path / "file" / "out", {"ranks": [1]})


def test_a_torn_line_is_run_again(tmp_path: Path):
    from makespan import finished, released_records

    plan = {"ranks": [1, 2], "lengths": [8]}
    place = tmp_path / "released" / "results.jsonl"
    place.parent.mkdir()
    place.write_text('{"rank": 1}\n{"rank": 2')
    assert released_records(tmp_path) == [{"rank": 1}]
    assert not finished(tmp_path, "released", plan)
    place.write_text('{"rank": 1}\n{"rank": 2}\n')
    assert finished(tmp_path, "released", plan)


@pytest.mark.parity
def test_a_dry_run_tells_the_roads_and_writes_nothing(tmp_path: Path, python: str, child_environment: dict[str, str]):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    command = [python, str(BENCHMARKS / "makespan.py"), "--scale", "tiny", "--dry-run", "--out", str(out)]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 cells: ranks 1, 2, 4; lengths 12, 24; 20 steps each.")
    assert [line.split(":")[0] for line in done.stdout.splitlines()[1:4]] == ["- ours", "- plain", "- released"]
    assert not out.exists()


def test_the_papers_grid_is_reckoned_and_more_chips_take_less_time():
    from makespan_plan import paper_plan

    def hours(hardware: str) -> dict[str, float]:
        lines = paper_plan("Qwen/Qwen3-8B", hardware, ["ours", "plain", "released"]).splitlines()
        assert lines[0].startswith("208 cells of Qwen/Qwen3-8B: ranks 1, 2, 4") and "2000 steps" in lines[0]
        found = [line for line in lines if line.startswith("- ")]
        return {line[2:].split(":")[0]: float(line.split(" hours")[0].split("about ")[1]) for line in found}

    few, many = hours("v5e-8"), hours("v5e-256")
    assert few["plain"] == pytest.approx(32 * many["plain"], rel=0.2)
    assert few["released"] == many["released"] > 3 * hours("h100-1")["plain"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "grid"], "invalid choice: 'grid'"),
        (["--scale", "paper"], "--scale paper, and it alone, wants --hardware NAME"),
        (["--hardware", "v5e-8"], "--scale paper, and it alone, wants --hardware NAME"),
        (["--scale", "paper", "--hardware", "abacus"], "--hardware is abacus, which tpu_configs/ has no file for"),
        (["--scale", "paper", "--hardware", "v5e-8", "--model", "no/model"], "model is 'no/model'"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    import makespan

    monkeypatch.setattr(makespan, "one_core", lambda core: 0)  # this process goes on with what it has
    assert makespan.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parity
def test_the_release_goes_on_where_it_was_killed(tmp_path: Path, quick_compiler: None):
    pytest.importorskip("torch")
    import makespan_roads
    from makespan import released_records

    plan = {"ranks": [1, 2], "lengths": [8], "steps": 3, "seed": 0, "learning_rate": 0.01, "model": "embedded"}
    makespan_roads.by_the_release(plan, tmp_path)
    first, second = released_records(tmp_path)
    assert first["loss_final"] < first["loss_initial"] == second["loss_initial"]
    place = tmp_path / "released" / "results.jsonl"
    place.write_text(json.dumps(first) + "\n" + json.dumps(second)[:40])
    makespan_roads.by_the_release(plan, tmp_path)
    kept, again = released_records(tmp_path)
    assert kept == first and again["loss_final"] == second["loss_final"]


@pytest.mark.parity
def test_a_tiny_grid_by_all_roads(tmp_path: Path, python: str, child_environment: dict[str, str]):
    pytest.importorskip("torch")
    out = tmp_path / "out"
    command = [python, str(BENCHMARKS / "makespan.py"), "--scale", "tiny", "--out", str(out)]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (out / "makespan.json").read_text()
    found = json.loads(text)
    assert set(found["roads"]) == {"ours", "plain", "released"}
    assert found["roads"]["plain"]["cells"] == found["roads"]["released"]["cells"] == 6
    assert found["roads"]["ours"]["cells"] + found["roads"]["ours"]["skipped"] == 6
    # from the same start, in float32, 20 steps end at the same loss
    ends = [{(c["rank"], c["length"]): c["loss_final"] for c in found["cells"][road]} for road in ("plain", "released")]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
    assert found["comparisons"][0]["times_as_fast"] > 0
    assert str(tmp_path) not in text and "/work" not in text
    for name in ("table.md", "makespan.png", "makespan.svg"):
        assert (out / name).stat().st_size > 0
