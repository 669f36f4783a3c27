"""The throughput benchmark from end to end on a tiny model, and how it takes sides that fail or compute otherwise."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .conftest import BENCHMARKS

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_measures_every_side(dtype: str, tmp_path: Path, python: str, child_environment: dict[str, str]):
    command = [python, BENCHMARKS / "throughput.py", "--scale", "tiny", "--tokens", 32, "--rounds", 1, "--dtype", dtype]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out")],
        env=child_environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "throughput.json").read_text()
    found = json.loads(text)
    (case,) = found["cases"]
    assert [(side["side"], side["adapters"]) for side in case["sides"]] == [
        ("a", 1), ("b", 1), ("c", 1), ("d", 1), ("d", 3)
    ]  # fmt: skip
    assert all(len(side["ms"]) == 1 and side["ms"][0] != 0 for side in case["sides"])
    assert all("compile_seconds" in side for side in case["sides"][2:])
    assert case["sides"][1]["feature_seconds"] > 0 and case["sides"][-1]["feature_seconds"] > 0
    assert set(case["agreement"]["largest_relative_difference"]) == {"a1", "b1", "c1", "d1", "d3"}
    assert max(case["agreement"]["largest_relative_difference"].values()) <= found["tolerance"]
    assert case["loss"]["a1"][-1] < case["loss"]["a1"][0]  # something was learnt, so a gradient was compared
    assert {"command", "hardware", "date", "git", "versions", "targets"} <= set(found)
    assert str(tmp_path) not in text and "/work" not in text
    assert (tmp_path / "out" / "table.md").read_text() in done.stdout + "\n"


@pytest.fixture
def measured(quick_compiler: None) -> Callable[..., dict[str, Any]]:
    """One case on the tiny scale, in this process."""
    from throughput_model import SCALES, random_base, torch_twin
    from throughput_run import measure

    scale = replace(SCALES["tiny"], rounds=1, adapters=(1, 2))
    base = random_base(scale.config, scale.dtype)

    def run(ends: float = float("inf"), **more: Any) -> dict[str, Any]:
        return measure(base, torch_twin(base), replace(scale, minutes=1.0), 24, ends=ends, **more)

    return run


def test_sides_that_disagree_are_not_timed(measured: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    import throughput_sides
    from throughput_table import table

    start = throughput_sides.torch_start

    def other(*arguments: Any) -> Any:
        return {name: (1.1 * a, b) for name, (a, b) in start(*arguments).items()}

    monkeypatch.setattr(throughput_sides, "torch_start", other)
    case = measured()
    assert "losses differ" in case["disagrees"]
    assert not any(side["ms"] for side in case["sides"])
    assert "losses differ" in table([case], 1.0)


def test_a_side_that_runs_out_of_memory_ends_nothing_else(
    measured: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    import throughput_sides

    train = throughput_sides.train_cells

    def greedy(base: Any, encoded: Any, cells: list[Any], **more: Any) -> Any:
        if len(cells) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes in /tmp/somewhere/x")
        return train(base, encoded, cells, **more)

    monkeypatch.setattr(throughput_sides, "train_cells", greedy)
    case = measured()
    assert case["sides"][-1]["failed"] == "out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes in x"
    assert all(len(side["ms"]) == 1 for side in case["sides"][:-1])


def test_what_is_not_begun_in_time_is_left_out_and_what_is_there_is_kept(measured: Callable[..., dict[str, Any]]):
    from throughput_table import table

    kept: list[str] = []
    case = measured(ends=0.0, keep=lambda case: kept.append(json.dumps(case)))
    assert all(side["failed"].startswith("out of time") for side in case["sides"])
    assert "out of time" in table([case], 1.0)
    kept.clear()
    case = measured(keep=lambda case: kept.append(json.dumps(case)))
    assert len(kept) == 2  # after the check, and after the round
    assert [len(side["ms"]) for side in json.loads(kept[0])["sides"]] == [0] * 5
    assert [len(side["ms"]) for side in json.loads(kept[1])["sides"]] == [1] * 5


def test_any_error_of_a_side_is_noted_and_told(
    measured: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import throughput_sides

    def broken(*arguments: Any, **more: Any) -> Any:
        raise ValueError("no such kernel")

    monkeypatch.setattr(throughput_sides, "train_cells", broken)
    case = measured()
    assert [side.get("failed") for side in case["sides"]] == [None, None, *["ValueError: no such kernel"] * 3]
    assert "Traceback" in capsys.readouterr().err


def test_a_dry_run_tells_sides_and_lengths_and_writes_nothing(
    tmp_path: Path, python: str, child_environment: dict[str, str]
):
    command = [python, str(BENCHMARKS / "throughput.py"), "--scale", "paper", "--tokens", "500", "--dry-run"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env=child_environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:4] for line in done.stdout.splitlines() if line.startswith("| 500")]
    assert [tuple(cell.strip() for cell in row[1:]) for row in rows] == [
        ("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("d", "16")
    ]  # fmt: skip
    assert "weights of 16.38 GB" in done.stdout and "8 minutes" in done.stdout
    assert not (tmp_path / "out").exists()


def test_both_libraries_have_the_same_weights(quick_compiler: None):
    """In float32 one forward pass of the twins agrees, and torch's copy is its own."""
    import jax.numpy as jnp
    import numpy as np
    from throughput_model import SCALES, random_base, torch_twin

    base = random_base(SCALES["tiny"].config, "float32")
    tokens = np.arange(12)[None] % base.config.vocab_size
    with torch.no_grad():
        theirs = torch_twin(base)(input_ids=torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(theirs, base.logits(jnp.asarray(tokens)), atol=2e-5)
    assert theirs.std() > 0.5  # unit scale, by which the tolerance is meant
