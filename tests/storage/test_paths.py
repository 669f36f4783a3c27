"""Paths: what is a bucket, what is refused, and that a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import absolute, as_path, folder_of, is_local, read_if_there, write_whole

from .memory_bucket import MemoryBucket, Refused

Bucket = type[MemoryBucket]


@pytest.mark.parametrize("place", ["runs/mine", "/runs/mine", ".", "a:b/c", Path("runs"), "gs:lab:/runs"])
def test_a_folder_is_local(place: str | Path) -> None:
    assert is_local(as_path(place)) and as_path(place) == epath.Path(place)
    assert absolute(as_path(place)).is_absolute()


def test_a_buckets_folder_keeps_its_url(bucket: Bucket) -> None:
    """`epath.Path.resolve` puts it below the working directory."""
    path = as_path("gs://lab/runs") / "mine"
    assert not is_local(path)
    assert str(path) == str(absolute(path)) == str(as_path(path)) == "gs://lab/runs/mine"


@pytest.mark.parametrize("scheme", ["ftp", "mem", "GS"])
def test_an_unknown_scheme_is_told_with_those_that_are_known(scheme: str) -> None:
    with pytest.raises(UserError, match=f"{scheme}://.*is not known.*gs://"):
        as_path(f"{scheme}://lab/runs")


@pytest.mark.parametrize("place", [Path("gs://lab/runs"), "gs:/lab/runs", "gs://", "gs:///runs"])
def test_a_url_that_lost_a_part_is_told_and_becomes_no_local_folder(place: str | Path) -> None:
    """pathlib takes one slash of two away, and "gs:" would be made here as a folder."""
    with pytest.raises(UserError, match="gs://bucket/folder"):
        as_path(place)


@pytest.mark.parametrize(
    ("scheme", "client", "word"),
    [("gs", "gcsfs", r"pip install 'memlaw-jax\[gcs\]'"), ("s3", "s3fs", "s3fs"), ("az", "adlfs", "adlfs")],
)
def test_a_client_that_is_missing_is_told_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, scheme: str, client: str, word: str
) -> None:
    from fsspec.registry import _registry

    for name in ("gs", "gcs", scheme):
        monkeypatch.delitem(_registry, name, raising=False)
    monkeypatch.setitem(sys.modules, client, None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=word) as caught:
        as_path(f"{scheme}://lab/runs")
    assert f"{scheme}://lab/runs" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_is_written_over_as_a_whole(place: str) -> None:
    path = as_path(place) / "file"
    if is_local(path):
        path.parent.mkdir()
    assert read_if_there(path) is None
    for data in (b"first", b"", b"the second, which is longer"):
        write_whole(path, data)
        assert read_if_there(path) == data
    assert [found.name for found in path.parent.iterdir()] == ["file"]
    assert folder_of(path) == folder_of(path.parent) == path.parent


def test_a_disk_that_refuses_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_path(tmp_path) / "file"
    write_whole(path, b"first")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]


def test_a_bucket_that_refuses_is_an_error_of_the_file_system(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients have exceptions of their own; what writes files here knows those of the operating system."""
    path = as_path("gs://lab/file")
    write_whole(path, b"first")

    def refuse(mode: str, path: str) -> None:
        raise Refused("Anonymous caller may not\nand more lines")

    monkeypatch.setattr(bucket, "fault", refuse)
    with pytest.raises(OSError, match=r"Anonymous caller may not$"):
        write_whole(path, b"second")
    with pytest.raises(UserError, match=r"gs://lab/file.*Anonymous caller may not\.$"):
        read_if_there(path)
    assert bucket.objects() == {"gs://lab/file": b"first"}


def test_a_bucket_that_is_not_there_is_named_and_not_made(bucket: Bucket) -> None:
    with pytest.raises(FileNotFoundError, match="no such bucket"):
        write_whole(as_path("gs://laboratory/file"), b"data")
    assert bucket.objects() == {}
