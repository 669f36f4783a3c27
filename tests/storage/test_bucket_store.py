"""The store in a bucket, which cannot append, rename or lock, and as every process but the first opens it."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from results.conftest import IDENTITY, arrays, record

from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path
from memlaw_jax.results import ResultStore
from memlaw_jax.training.saturation import SKIPPED, Saturation

from .memory_bucket import MemoryBucket, Refused

Bucket = type[MemoryBucket]
OUT = "gs://lab/runs/mine"


def fill(place: str, *names: str) -> None:
    with ResultStore(place, IDENTITY) as store:
        for name in names:
            store.append(record(name), arrays())


def cells(place: str) -> list[str]:
    """The ids in `results.jsonl`, whose every line is whole."""
    text = (as_path(place) / "results.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line)["cell_id"] for line in text.splitlines()]


def test_what_was_appended_comes_back(bucket: Bucket) -> None:
    fill(OUT, "a")
    fill(OUT, "b")
    with ResultStore(OUT, IDENTITY) as store:
        assert store.records == [record("a"), record("b")] and store.finished == {"a", "b"}
        assert str(store.directory) == OUT
    for name in "ab":
        with np.load(io.BytesIO(bucket.objects()[f"{OUT}/tokens/{name}.npz"])) as saved:
            for key, value in arrays().items():
                np.testing.assert_array_equal(saved[key], value)


def test_a_kill_between_arrays_and_line_costs_that_cell_only(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    fill(place, "a")
    with ResultStore(place, IDENTITY) as store, monkeypatch.context() as patch:
        patch.setattr(store._journal, "append", die)
        with pytest.raises(KeyboardInterrupt):
            store.append(record("b"), arrays())
    assert (as_path(place) / "tokens" / "b.npz").exists() and cells(place) == ["a"]
    with ResultStore(place, IDENTITY) as store:
        assert store.finished == {"a"}
        store.append(record("b"), arrays())
    assert cells(place) == ["a", "b"]


def test_a_signal_while_the_lines_are_stored_loses_none(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the object is open and nothing is written yet; closing it then would store an empty one."""
    fill(OUT, "a")

    def interrupt(mode: str, path: str) -> None:
        if mode == "write" and path.endswith("results.jsonl"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ResultStore(OUT, IDENTITY) as store:
            monkeypatch.setattr(bucket, "fault", interrupt)
            with pytest.raises(KeyboardInterrupt):
                store.append(record("b"), arrays())
            seen = [cells(OUT)]
            time.sleep(0.2)  # for what is stored a moment later
            seen.append(cells(OUT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert all(names in (["a"], ["a", "b"]) for names in seen)


@pytest.mark.parametrize("file", [".npz", "results.jsonl"])
def test_a_bucket_that_refuses_keeps_earlier_cells_and_the_next_try_goes_on(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def refuse_one(mode: str, path: str) -> None:
        if mode == "wb" and path.endswith(file):
            raise Refused("503, try again later")

    fill(OUT, "a")
    with ResultStore(OUT, IDENTITY) as store:
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "fault", refuse_one)
            with pytest.raises(UserError, match=f"{OUT}: Refused: 503.*All finished cells are kept"):
                store.append(record("b"), arrays())
        assert cells(OUT) == ["a"] and store.finished == {"a"}
        store.append(record("b"), arrays())
    assert cells(OUT) == ["a", "b"]


def test_a_network_that_fails_is_not_taken_for_an_empty_folder(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's `exists` says no to every error; the next append would then store one line in place of all."""
    fill(OUT, "a")
    before = bucket.objects()
    for file in ("sweep.json", "results.jsonl"):

        def fail(mode: str, path: str, file: str = file) -> None:
            if path.endswith(file):
                raise Refused("503, try again later")

        with monkeypatch.context() as patch:
            patch.setattr(bucket, "fault", fail)
            with pytest.raises(UserError, match=file):
                ResultStore(OUT, IDENTITY)
        after = bucket.objects()
        after.pop(f"{OUT}/.lock"), before.pop(f"{OUT}/.lock", None)
        assert after == before


def test_a_torn_line_that_was_copied_into_a_bucket_is_cut_off(bucket: Bucket) -> None:
    fill(OUT, "a")
    path = as_path(OUT) / "results.jsonl"
    path.write_bytes(path.read_bytes() + b'{"cell_id": "b", "ra')
    with ResultStore(OUT, IDENTITY) as store:
        assert store.finished == {"a"} and cells(OUT) == ["a"]
        store.append(record("c"), arrays())
    assert cells(OUT) == ["a", "c"]


def test_another_sweeps_folder_is_refused_and_the_sweep_in_it_goes_on(bucket: Bucket) -> None:
    with ResultStore(OUT, IDENTITY) as store:
        store.append(record("a"), arrays())
        before = bucket.objects()
        with pytest.raises(UserError, match="its task is long_context, yours phonebook"):
            ResultStore(OUT, IDENTITY | {"task": "phonebook"})
        assert bucket.objects() == before
        store.append(record("b"), arrays())
    assert cells(OUT) == ["a", "b"]


def test_of_two_writers_the_later_goes_on_and_the_earlier_stops(bucket: Bucket) -> None:
    """As of a job that was moved to another machine while its old one is not quite dead."""
    with ResultStore(OUT, IDENTITY) as earlier:
        earlier.append(record("a"), arrays())
        with ResultStore(OUT, IDENTITY) as later:
            assert later.finished == {"a"}
            with pytest.raises(UserError, match=f"another process is writing to {OUT}"):
                earlier.append(record("b"), arrays())
            later.append(record("c"), arrays())
    assert cells(OUT) == ["a", "c"]


def test_a_bucket_that_is_not_there_is_told(bucket: Bucket) -> None:
    with pytest.raises(UserError, match="gs://laboratory/out: there is no such bucket"):
        ResultStore("gs://laboratory/out", IDENTITY)


def snapshot(place: str) -> dict[str, bytes]:
    """Every file, and every folder of a disk."""
    if place.startswith("gs://"):
        return MemoryBucket.objects()
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in Path(place).rglob("*")}


def test_a_reader_sees_what_the_writer_wrote_and_writes_nothing(place: str) -> None:
    with ResultStore(place, IDENTITY) as writer:  # open, as it is while other processes of the sweep are
        writer.append(record("a"), arrays())
        before = snapshot(place)
        with ResultStore(place, IDENTITY, writer=False) as reader:
            assert reader.records == [record("a")]
            for store in (reader, writer):
                if store is writer:
                    assert snapshot(place) == before
                store.append(record("b", loss_final=math.nan, layers=(4, 5)), arrays())
            assert reader.records == writer.records and reader.records[1]["loss_final"] is None
        after = snapshot(place)
        writer.append(record("c"), arrays())  # and the reader has taken no lock away
    assert after != before and cells(place) == ["a", "b", "c"]


def test_a_reader_may_be_there_first(place: str) -> None:
    """The processes of a sweep begin at the same moment."""
    with ResultStore(place, IDENTITY, writer=False) as reader:
        assert reader.records == [] and not as_path(place).exists()
        reader.append(record("a"), arrays())
        assert reader.finished == {"a"} and not as_path(place).exists()


def test_a_reader_leaves_a_torn_line_to_the_writer(place: str) -> None:
    fill(place, "a")
    path = as_path(place) / "results.jsonl"
    path.write_bytes(path.read_bytes() + b'{"cell_id": "b", "ra')
    before = snapshot(place)
    with ResultStore(place, IDENTITY, writer=False) as reader:
        assert reader.finished == {"a"}
    assert snapshot(place) == before


def test_a_reader_refuses_another_sweeps_folder(place: str) -> None:
    fill(place, "a")
    with pytest.raises(UserError, match="its task is"):
        ResultStore(place, IDENTITY | {"task": "phonebook"}, writer=False)
    (as_path(place) / "sweep.json").unlink()
    with pytest.raises(UserError, match=r"no sweep\.json"):
        ResultStore(place, IDENTITY, writer=False)


def test_what_was_skipped_is_written_as_a_whole_and_taken_away(
    place: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place, "a")
    path = as_path(place) / SKIPPED
    saturation = Saturation(SimpleNamespace(cells=[]), [])  # type: ignore[arg-type]
    saturation.save(path.parent)
    assert not path.exists()
    saturation.skipped["b"] = {"cell_id": "b"}
    saturation.save(path.parent)
    assert json.loads(path.read_text()) == [{"cell_id": "b"}]
    saturation.skipped["c"] = {"cell_id": "c"}

    def full(*_: Any) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(bucket, "fault", full)
        with pytest.raises(UserError, match=f"{SKIPPED}: full"):
            saturation.save(path.parent)
    assert json.loads(path.read_text()) == [{"cell_id": "b"}]
    saturation.skipped.clear()
    saturation.save(path.parent)
    assert not path.exists()
