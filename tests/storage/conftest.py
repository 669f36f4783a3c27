from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from etils.epath import backend, gpath
from fsspec.registry import _registry

from .memory_bucket import MemoryBucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[MemoryBucket]]:
    """`gs://lab` in memory, through the clients that etils takes for it."""
    for scheme in ("gs", "gcs"):
        monkeypatch.setitem(_registry, scheme, MemoryBucket)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(MemoryBucket, "fault", None)
    MemoryBucket.store.clear()
    MemoryBucket.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield MemoryBucket
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture(params=["local", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, bucket: type[MemoryBucket]) -> str:
    """An output folder that does not exist yet, on a disk and in a bucket."""
    return str(tmp_path / "out") if request.param == "local" else "gs://lab/out"
