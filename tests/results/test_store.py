"""The append-only store: whatever stops it, finished cells stay and no half line does."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.results import ResultStore

from .conftest import arrays, record

Identity = dict[str, Any]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of `results.jsonl` as strict JSON; fails on a torn one."""
    data = (folder / "results.jsonl").read_bytes()
    assert data.endswith(b"\n")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in data.decode().split("\n")[:-1]]


def fill(folder: Path, identity: Identity, *names: str) -> None:
    with ResultStore(folder, identity) as store:
        for name in names:
            store.append(record(name), arrays())


def test_what_was_appended_comes_back(tmp_path: Path, identity: Identity) -> None:
    out = tmp_path / "not" / "there" / "yet"
    fill(out, identity, "a", "b")
    with ResultStore(out, identity) as store:
        assert store.records == [record("a"), record("b")] == lines(out)
        assert store.finished == {"a", "b"}
        assert [record["cell_id"] for record in store.records] == ["a", "b"]


def test_a_kill_at_any_byte_of_the_last_line_costs_that_line_only(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # seconds, over all positions
    whole = tmp_path / "whole"
    fill(whole, identity, "a", "b", "c")
    data = (whole / "results.jsonl").read_bytes()
    start = data.rstrip(b"\n").rfind(b"\n") + 1
    assert len(data) - start > 500
    out = tmp_path / "killed"
    shutil.copytree(whole, out)
    for end in range(start, len(data)):
        (out / "results.jsonl").write_bytes(data[:end])
        with ResultStore(out, identity) as store:
            assert store.records == [record("a"), record("b")], end
            store.append(record("d"), {})
        assert lines(out) == [record("a"), record("b"), record("d")], end


def test_a_kill_before_the_first_line_is_whole_leaves_an_empty_sweep(tmp_path: Path, identity: Identity) -> None:
    fill(tmp_path, identity, "a")
    (tmp_path / "results.jsonl").write_bytes(b'{"schema": 1, "cell')
    with ResultStore(tmp_path, identity) as store:
        assert store.records == [] and store.finished == set()
        store.append(record("a"), arrays())
    assert lines(tmp_path) == [record("a")]


def test_a_broken_line_in_the_middle_is_told_by_its_number_and_kept(tmp_path: Path, identity: Identity) -> None:
    fill(tmp_path, identity, "a", "b")
    path = tmp_path / "results.jsonl"
    before = b"{broken\n" + path.read_bytes()
    path.write_bytes(before)
    with pytest.raises(UserError, match="line 1 "):
        ResultStore(tmp_path, identity)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["5", "null", "[]", "{}"])
def test_a_line_that_is_no_record_is_told_by_its_number(tmp_path: Path, identity: Identity, line: str) -> None:
    fill(tmp_path, identity, "a")
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="line 2 "), ResultStore(tmp_path, identity) as store:
        _ = store.finished


def test_each_line_has_its_arrays_and_they_were_there_first(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, identity, "a", "b")
    for line in lines(tmp_path):
        with np.load(tmp_path / "tokens" / f"{line['cell_id']}.npz") as saved:
            assert set(saved) == set(arrays())
            for name, value in arrays().items():
                np.testing.assert_array_equal(saved[name], value)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with ResultStore(tmp_path, identity) as store:
        monkeypatch.setattr(store._journal, "append", die)
        with pytest.raises(KeyboardInterrupt):
            store.append(record("c"), arrays())
    assert (tmp_path / "tokens" / "c.npz").exists() and [line["cell_id"] for line in lines(tmp_path)] == ["a", "b"]


def test_a_line_is_on_the_disk_when_append_returns(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, int] = {}
    sync = os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        synced[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", watched)
    with ResultStore(tmp_path, identity) as store:
        store.append(record("a"), arrays())
        assert synced[str(tmp_path / "results.jsonl")] == (tmp_path / "results.jsonl").stat().st_size
        assert any("tokens" in path and size > 0 for path, size in synced.items())


@pytest.mark.parametrize("call", [0, 1], ids=["arrays", "line"])
def test_no_space_keeps_earlier_records_and_says_so(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    fill(tmp_path, identity, "a")
    calls = iter(range(10))

    def full(_descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ResultStore(tmp_path, identity) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError, match="no space") as caught:
                store.append(record("b"), arrays())
        assert str(tmp_path) in str(caught.value)
        assert lines(tmp_path) == [record("a")] and store.finished == {"a"}
        store.append(record("b"), arrays())
    assert lines(tmp_path) == [record("a"), record("b")]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: as on a full disk, a write puts down what fits and then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fits", [0, 1, 300])
def test_a_write_that_only_half_fits_leaves_no_half_line(tmp_path: Path, identity: Identity, fits: int) -> None:
    fill(tmp_path, identity, *"abcdefgh")  # beyond the size of the arrays' file, which must still fit
    path = tmp_path / "results.jsonl"
    before = path.read_bytes()
    with ResultStore(tmp_path, identity) as store:
        with room_for(len(before) + fits), pytest.raises(UserError):
            store.append(record("i"), arrays())
        assert path.read_bytes() == before
        store.append(record("i"), arrays())
    assert [line["cell_id"] for line in lines(tmp_path)] == list("abcdefghi")


def test_no_space_for_a_new_folder_is_told_and_the_folder_can_be_used_later(tmp_path: Path, identity: Identity) -> None:
    with room_for(1), pytest.raises(UserError, match=str(tmp_path)):
        ResultStore(tmp_path / "out", identity)
    fill(tmp_path / "out", identity, "a")
    assert lines(tmp_path / "out") == [record("a")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "another"), ("lora", {"targets": ["q_proj"], "alpha": None}), ("new", 1), ("new", None)],
)
def test_another_sweeps_folder_is_refused_by_the_key_that_differs(
    tmp_path: Path, identity: Identity, key: str, value: Any
) -> None:
    fill(tmp_path, identity, "a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"{key} is ") as caught:
        ResultStore(tmp_path, identity | {key: value})
    assert str(tmp_path) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    fill(tmp_path, identity, "b")  # and the refusal holds no lock


def test_a_folder_whose_key_is_missing_is_refused_too(tmp_path: Path, identity: Identity) -> None:
    fill(tmp_path, identity, "a")
    with pytest.raises(UserError, match="task is "):
        ResultStore(tmp_path, {key: value for key, value in identity.items() if key != "task"})


@pytest.mark.parametrize("manifest", [None, "{torn", "5"])
def test_results_that_say_not_whose_they_are_are_refused(
    tmp_path: Path, identity: Identity, manifest: str | None
) -> None:
    fill(tmp_path, identity, "a")
    path = tmp_path / "sweep.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"sweep\.json"):
        ResultStore(tmp_path, identity)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_one_writer_at_a_time(tmp_path: Path, identity: Identity, python: str) -> None:
    other = f"from memlaw_jax.results import ResultStore; ResultStore({str(tmp_path)!r}, {identity!r})"
    with ResultStore(tmp_path, identity) as store:
        store.append(record("a"), arrays())
        with pytest.raises(UserError, match="another process"):
            ResultStore(tmp_path, identity)
        refused = subprocess.run([python, "-c", other], capture_output=True, text=True)
        assert refused.returncode == 1 and "another process" in refused.stderr
        store.append(record("b"), arrays())
    assert subprocess.run([python, "-c", other]).returncode == 0
    assert lines(tmp_path) == [record("a"), record("b")]


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file" / "out"


def in_place_of_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file"


@pytest.mark.parametrize("place", [below_a_file, in_place_of_a_file])
def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, identity: Identity, place: Callable[[Path], Path]
) -> None:
    with pytest.raises(UserError, match="choose another output folder"):
        ResultStore(place(tmp_path), identity)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_folder_that_may_not_be_written_is_told(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The tests may run as root, whom the file system refuses nothing."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(UserError, match=str(tmp_path)):
        ResultStore(tmp_path / "out", identity)


def test_a_crash_inside_gives_the_lock_back(tmp_path: Path, identity: Identity) -> None:
    with pytest.raises(ZeroDivisionError), ResultStore(tmp_path, identity):
        raise ZeroDivisionError
    fill(tmp_path, identity, "a")


def test_a_sweep_may_be_read_while_it_runs(tmp_path: Path, identity: Identity) -> None:
    from memlaw_jax.analysis import read_frame

    with ResultStore(tmp_path, identity) as store:
        store.append(record("a"), arrays())
        assert list(read_frame(tmp_path)["rank"]) == [4]
