"""A sweep whose folder is in a bucket: the cells that it has on a disk, stopped or not, and what is made of them."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from memlaw_jax.analysis import Law, fit_and_draw, fit_law, read_frame
from memlaw_jax.analysis.tokens.microscope import microscope
from memlaw_jax.analysis.tokens.tokens import read_tokens
from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, LoraConfig, load_adapter
from memlaw_jax.paths import as_path
from memlaw_jax.training import OptimConfig
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.logging import Log
from memlaw_jax.training.remember import remember
from memlaw_jax.training.sweep import run_sweep
from memlaw_jax.training.sweep_config import SweepConfig

from .memory_bucket import MemoryBucket

pytestmark = pytest.mark.usefixtures("quick_compiler", "no_checkpoints")

Bucket = type[MemoryBucket]
OUT = "gs://lab/grid"
CELLS = 6


def config(**changes: Any) -> SweepConfig:
    """3 ranks and 2 lengths, in seconds."""
    values: dict[str, Any] = {
        "task": {"kind": "long_context", "ratio": 1.0, "tokens": 40},
        "lengths": (12, 24),
        "ranks": (1, 2, 4),
        "optim": OptimConfig(steps=30, learning_rate=0.01),
        "steps_per_dispatch": 10,
    }
    return SweepConfig(**values | changes)


@pytest.fixture
def no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorStore writes their arrays, with a client of its own that knows no memory behind `gs://`."""
    monkeypatch.setattr(Checkpoints, "due", False)


class Killed(BaseException):
    pass


class KilledAfter(Log):
    """Kills the sweep once a number of cells are saved."""

    cells = 2

    def finished(self, cell: Any, outcome: Any) -> None:
        super().finished(cell, outcome)
        if self.new == self.cells:
            raise Killed


def points(place: Any) -> dict[tuple[str, int], float]:
    """The points of all curves of a TensorBoard folder, by tag and step."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in place.iterdir():
        data = io.BytesIO(file.read_bytes())
        while head := data.read(12):  # a length and its checksum, then the event and its checksum
            (size,) = struct.unpack("Q", head[:8])
            event = Event.FromString(data.read(size))
            data.read(4)
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_a_sweep_in_a_bucket_is_the_sweep_on_a_disk_stopped_or_not(
    base: Base, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        run_sweep(base, config(), OUT, KilledAfter(OUT, bar=False))
    stopped = (as_path(OUT) / "results.jsonl").read_text()
    assert stopped.count("\n") == KilledAfter.cells and stopped.endswith("\n")
    log = Log(OUT, bar=False)
    results = run_sweep(base, config(), OUT, log)
    assert log.new == CELLS - KilledAfter.cells and len(results.records) == CELLS
    assert (as_path(OUT) / "results.jsonl").read_text().startswith(stopped)
    assert os.listdir(tmp_path) == []  # nothing of it here

    on_disk = run_sweep(base, config(), tmp_path / "grid", Log(tmp_path / "grid", bar=False))
    losses = {record["cell_id"]: record["loss_final"] for record in results.records}
    assert losses == pytest.approx({record["cell_id"]: record["loss_final"] for record in on_disk.records}, abs=5e-5)

    here = {path.relative_to(tmp_path / "grid").parts[:2] for path in (tmp_path / "grid").rglob("*") if path.is_file()}
    there = {tuple(url.removeprefix(f"{OUT}/").split("/")[:2]) for url in bucket.objects()}
    assert there == here
    curves = list((as_path(OUT) / "tensorboard").iterdir())
    assert len(curves) == CELLS
    for curve in curves:
        mine = points(tmp_path / "grid" / "tensorboard" / curve.name)
        assert len(mine) > 10 and points(curve) == pytest.approx(mine, abs=5e-5)


def test_what_is_made_of_results_is_the_same_from_a_bucket(base: Base, bucket: Bucket, tmp_path: Path) -> None:
    run_sweep(base, config(), OUT)
    folder = as_path(OUT)
    (tmp_path / "tokens").mkdir()
    for path in (folder / "results.jsonl", *(folder / "tokens").iterdir()):
        (tmp_path / path.relative_to(folder)).write_bytes(path.read_bytes())

    law, written, _ = fit_and_draw([OUT], f"{OUT}/law", bootstrap=50)
    again = fit_law(tmp_path, bootstrap=50)
    assert (law.alpha, law.beta, law.c_ref) == (again.alpha, again.beta, again.c_ref)
    assert Law.load(f"{OUT}/law").alpha == law.alpha
    assert f"{OUT}/law/law.png" in map(str, written)
    assert bucket.objects()[f"{OUT}/law/law.png"].startswith(b"\x89PNG")

    one, other = (json.loads(microscope(read_tokens(place)).to_json()) for place in (OUT, tmp_path))
    assert {key for key in one if one[key] != other[key]} <= {"source"}


def test_results_that_are_not_there_are_told(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("gs://lab/none", "gs://lab/none.csv", "gs://laboratory/none"):
        with pytest.raises(UserError, match=f"there is no {place}"):
            read_frame(place)
    (as_path(OUT) / "results.jsonl").write_bytes(b"{}\n")

    def refuse(*_: str) -> None:
        raise RuntimeError("503, try again later")

    monkeypatch.setattr(bucket, "fault", refuse)
    with pytest.raises(UserError, match=f"cannot read {OUT}/results.jsonl: RuntimeError: 503"):
        read_frame(OUT)


def test_an_adapter_comes_back_from_a_bucket(base: Base, bucket: Bucket) -> None:
    task = config().made_task()
    found = remember(
        base, task, OUT, lora=LoraConfig(targets=("q_proj",)), rank=2, optim=OptimConfig(steps=8), method="sft"
    )
    assert str(found.directory) == f"{OUT}/adapter" and len(found.loss_history) == 8
    adapter = load_adapter(found.directory)
    jax.tree.map(np.testing.assert_array_equal, adapter.weights, found.adapter.weights)
    assert (adapter.lora, adapter.layers) == (found.adapter.lora, found.adapter.layers)
    with pytest.raises(UserError, match="gs://lab/none is no adapter directory"):
        load_adapter("gs://lab/none")
    with pytest.raises(UserError, match="cannot write the adapter to gs://laboratory/a: there is no such bucket"):
        adapter.save("gs://laboratory/a")


def test_a_curve_that_a_bucket_refuses_ends_and_the_sweep_goes_on(
    base: Base, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_curves(mode: str, path: str) -> None:
        if "tensorboard" in path:
            raise RuntimeError("503, try again later")

    monkeypatch.setattr(bucket, "fault", refuse_curves)
    few = config(ranks=(1,), lengths=(12,))
    with pytest.warns(UserWarning, match="curve ends here.*503"):
        results = run_sweep(base, few, OUT, Log(OUT, bar=False))
    assert len(results.records) == 1


def test_a_long_curve_is_stored_while_it_grows(base: Base, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell can take hours, and a machine can be gone before it ends."""
    stored: list[int] = []

    def count(mode: str, path: str) -> None:
        if mode == "wb" and "tensorboard" in path:
            stored.append(1)

    monkeypatch.setattr("memlaw_jax.training.logging.STORED_EVERY", 0.0)
    monkeypatch.setattr(bucket, "fault", count)
    run_sweep(base, config(ranks=(1,), lengths=(12,)), OUT, Log(OUT, bar=False))
    assert len(stored) > 3
