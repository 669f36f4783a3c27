"""`memlaw sweep`: runs a grid, goes on with it, adds to it, and survives being killed."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memlaw_jax.results import FIELDS

from .conftest import Memlaw, Said, compare, records

pytestmark = pytest.mark.usefixtures("quick_compiler")

Swept = Callable[[Memlaw], tuple[Path, Said]]


def test_a_grid_runs_to_the_end(swept: Swept, memlaw: Memlaw) -> None:
    folder, said = swept(memlaw)
    assert said.code == 0, said.err
    assert "6 cells finished, 6 of them now" in said.out and str(folder / "results.jsonl") in said.out
    found = records(folder)
    assert [(record["rank"], record["length"]) for record in found] == [(r, n) for n in (12, 24) for r in (1, 2, 4)]
    for record in found:
        assert set(FIELDS) <= set(record)
        assert record["stopped"] == "budget" and record["steps"] == 30
        assert record["token_visits"] == 30 * record["length"]
        assert record["effective_parameters"] == 2 * 64 * record["rank"] and record["layers"] == [2]
        assert record["loss_initial"] > 4 > 0.69 < record["loss_final"] < record["loss_initial"]
    # More rank remembers more, more text is harder: the claim that all this is about.
    final = {(record["rank"], record["length"]): record["loss_final"] for record in found}
    assert all(final[4, n] < final[2, n] < final[1, n] for n in (12, 24))
    assert all(final[r, 12] < final[r, 24] for r in (1, 2, 4))


def test_the_arrays_of_a_cell_agree_with_its_record(swept: Swept, memlaw: Memlaw) -> None:
    folder, _ = swept(memlaw)
    for record in records(folder):
        with np.load(folder / "tokens" / f"{record['cell_id']}.npz") as saved:
            assert saved["nats"].shape == saved["right"].shape == saved["sample"].shape == (record["length"],)
            assert saved["nats"].mean() == pytest.approx(record["loss_final"], abs=1e-5)
            assert saved["nats_initial"].mean() == pytest.approx(record["loss_initial"], abs=1e-5)
            assert saved["right"].mean() == pytest.approx(record["token_accuracy"])
            assert np.exp(-saved["nats"].max()) == pytest.approx(record["p_min"])
            assert saved["loss_history"].shape == (30,)


def events(folder: Path) -> dict[str, dict[int, float]]:
    """`{tag: {step: value}}` of a TensorBoard run: records of length, checksum, protocol buffer, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_holds_the_loss_curve_of_each_cell(swept: Swept, memlaw: Memlaw) -> None:
    folder, _ = swept(memlaw)
    for record in records(folder):
        (run,) = (folder / "tensorboard").glob(f"*{record['cell_id']}")
        found = events(run)
        curve = found["train/nats_per_answer_token"]
        with np.load(folder / "tokens" / f"{record['cell_id']}.npz") as saved:
            history = saved["loss_history"]
        assert min(curve) == 0 and max(curve) == 29 and len(curve) >= 3 * 5
        for step, value in curve.items():
            assert value == pytest.approx(float(history[step]))
        assert found["final/nats_per_answer_token"] == {30: pytest.approx(record["loss_final"])}
        assert set(found["train/gradient_norm"]) == set(found["train/token_accuracy"]) == set(curve)


def test_what_a_finished_folder_lacks_is_said(config: Path, copy: Path, memlaw: Memlaw) -> None:
    """A cell is never run twice, so a config that asks for more than the folder has gets less than it asks for."""
    said = memlaw("sweep", str(config), "--out", str(copy), "decode=true", "adapters=true")
    assert said.code == 0 and "0 of them now" in said.out
    assert "6 cells" in said.err and "not decoded" in said.err and "not kept as adapters" in said.err


def test_the_same_command_again_computes_nothing(
    config: Path, copy: Path, memlaw: Memlaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a finished cell was trained again")

    monkeypatch.setattr(sys.modules["memlaw_jax.training.grid"], "train_cells", fail)
    before = (copy / "results.jsonl").read_bytes()
    said = memlaw("sweep", config, "--out", copy, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) | {"seconds": 0} == {
        "out": str(copy), "cells": 6, "new": 0, "diverged": 0, "skipped": 0, "seconds": 0,
    }  # fmt: skip
    assert (copy / "results.jsonl").read_bytes() == before


def test_a_grown_axis_adds_only_the_new_cells(config: Path, copy: Path, memlaw: Memlaw) -> None:
    before = (copy / "results.jsonl").read_bytes()
    said = memlaw("sweep", config, "ranks=[4, 1, 2, 8]", "lengths=[12]", "--out", copy, "--json")
    assert said.code == 0, said.err
    assert {key: json.loads(said.out)[key] for key in ("cells", "new")} == {"cells": 4, "new": 1}
    after = (copy / "results.jsonl").read_bytes()
    assert after.startswith(before)
    (line,) = after[len(before) :].splitlines()
    assert (json.loads(line)["rank"], json.loads(line)["length"]) == (8, 12)


def test_a_cell_named_twice_is_run_and_kept_once(config: Path, tmp_path: Path, memlaw: Memlaw) -> None:
    """Twice in the results it would count as two seeds, which `memlaw fit` refuses."""
    out = tmp_path / "out"
    said = memlaw("sweep", config, "ranks=[4, 1, 2, 4]", "lengths=[12, 12]", "seeds=[0, 0]", "--out", out, "--json")
    if said.code == 0:
        assert [(record["rank"], record["length"]) for record in records(out)] == [(1, 12), (2, 12), (4, 12)]
        assert json.loads(said.out)["cells"] == 3
    else:  # refusing it is as good
        assert said.code == 2 and not out.exists()


def test_different_lengths_that_reach_the_same_tokens_are_one_cell(
    config: Path, tmp_path: Path, memlaw: Memlaw
) -> None:
    """`null` is everything, here the 12 tokens that the other length asks for."""
    out = tmp_path / "out"
    task = "task={kind: long_context, tokens: 12}"
    said = memlaw("sweep", config, task, "lengths=[null, 12]", "--out", out, "--json")
    assert said.code == 0, said.err
    assert len(records(out)) == 3 == json.loads(said.out)["cells"]


@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_overrides_replace_what_the_file_says(
    config: Path, tmp_path: Path, memlaw: Memlaw, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Wherever they stand: the design has `memlaw sweep CONFIG [--out DIR] [key=value ...]`."""
    seen: dict[str, Any] = {}

    def watch(base: Any, config: Any, out: Any, watch: Any) -> None:
        seen.update(config=config, out=Path(out))
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["memlaw_jax.training.sweep"], "run_sweep", watch)
    overrides = ["ranks=[3]", "optim.steps=7", "optim.clip=null", "lora.init=peft", "dtype=bfloat16", "lanes=2"]
    folder = ["--out", str(tmp_path / "elsewhere")]
    arguments = {
        "before": [config, *overrides, *folder],
        "after": [config, *folder, *overrides],
        "between": [config, *overrides[:2], *folder, *overrides[2:]],
    }[place]
    said = memlaw("sweep", *arguments)
    assert said.code == 130, said.err
    made = seen["config"]
    assert made.ranks == (3,) and made.optim.steps == 7 and made.optim.clip is None
    assert made.optim.learning_rate == 0.01 and made.lengths == (12, 24)  # as the file says
    assert made.lora.init == "peft" and made.dtype == "bfloat16" and made.lanes == 2
    assert seen["out"] == tmp_path / "elsewhere"


def test_python_and_the_command_line_give_the_same_records(
    base: Any, swept: Swept, memlaw: Memlaw, tmp_path: Path
) -> None:
    import memlaw_jax as ml

    task = ml.LongContext(ratio=1.0, tokens=40)
    results = ml.sweep(
        base, task, ranks=[1, 2, 4], lengths=[12, 24], out=tmp_path / "python",
        optim=ml.OptimConfig(steps=30, learning_rate=0.01), steps_per_dispatch=10,
    )  # fmt: skip
    folder, _ = swept(memlaw)
    compare(records(tmp_path / "python"), records(folder))
    frame = results.frame()
    assert len(frame) == 6 and set(FIELDS) <= set(frame.columns)
    law = ml.fit_law(frame, bootstrap=0)
    assert law.alpha > 0 and law.beta > 0


def test_a_diverged_cell_is_recorded_and_told(config: Path, tmp_path: Path, memlaw: Memlaw) -> None:
    out = tmp_path / "out"
    said = memlaw("sweep", config, "lengths=[12]", "ranks=[1, 2, 4]", "optim.learning_rate=1.0e+38", "--out", out)
    assert said.code == 0, said.err
    assert "3 cells diverged" in said.out
    for record in records(out):
        assert record["stopped"] == "diverged" and record["loss_final"] is None and record["p_min"] is None
        assert record["exact_match"] == 0


@pytest.fixture(scope="module")
def slow_grid(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell after the other, each long enough to be killed in."""
    path = tmp_path_factory.mktemp("slow") / "slow.yaml"
    text = config.read_text().replace("lengths: [12, 24]", "lengths: [12]").replace("steps: 30", "steps: 300")
    path.write_text(text.replace("ranks: [1, 2, 4]", "ranks: [1, 2, 3, 4]") + "lanes: 1\n")
    return path


def lines(folder: Path) -> int:
    path = folder / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@contextmanager
def terminated_after(cells: int, folder: Path) -> Iterator[None]:
    """Sends this process SIGTERM once the folder holds so many cells; `main` listens to it until the test is over."""
    over = threading.Event()

    def watch() -> None:
        while lines(folder) < cells:
            if over.wait(0.002):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def test_stopped_twice_a_sweep_ends_with_the_records_of_one_that_was_not(
    slow_grid: Path, tmp_path: Path, memlaw: Memlaw, child_environment: dict[str, str], python: str
) -> None:
    """SIGTERM after the first cell, SIGKILL after the second, each in the middle of the next."""
    out = tmp_path / "stopped"
    command = ["sweep", str(slow_grid), "--out", str(out)]
    with terminated_after(1, out):
        stopped = memlaw(*command)
    told = r"stopped by SIGTERM; [01] adapters in training are saved; the same command goes on from there"
    assert stopped.code == 0 and re.search(told, stopped.err) and "Traceback" not in stopped.err
    assert 1 <= lines(out) < 4

    child = subprocess.Popen(
        [python, "-m", "memlaw_jax.cli.main", *command], env=child_environment, stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + 120
    while lines(out) < 2:
        assert child.poll() is None and time.monotonic() < give_up, child.communicate()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL and 2 <= lines(out) < 4

    kept = (out / "results.jsonl").read_bytes()
    resumed = memlaw(*command, "--json")
    assert resumed.code == 0, resumed.err
    assert 0 < json.loads(resumed.out)["new"] < 3
    assert (out / "results.jsonl").read_bytes().startswith(kept.rpartition(b"\n")[0])
    whole = memlaw("sweep", slow_grid, "--out", tmp_path / "whole", "--json")
    assert whole.code == 0 and json.loads(whole.out)["new"] == 4
    compare(records(out), records(tmp_path / "whole"))
