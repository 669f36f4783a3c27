"""Google's object store in memory, behind etils' own `gs://` paths: what gcsfs does, in a dictionary.

It differs from fsspec's memory as a bucket differs from a disk: an object appears when its upload is closed and not
before, there are no folders to make and no renames, and to open one for appending replaces it, as in gcsfs.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem


class Refused(Exception):
    """What a client raises of its own, which is no OSError."""


class MemoryBucket(MemoryFileSystem):
    """The bucket `lab`. `fault` is called with (mode, path) at each opening, and with ("write", path) once an upload is
    open and has nothing yet; it may raise or send a signal."""

    protocol = ("gs", "gcs")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: ClassVar[Callable[[str, str], None] | None] = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))

    @classmethod
    def objects(cls) -> dict[str, bytes]:
        """Everything that is stored, by URL."""
        return {f"gs:/{path}": file.getvalue() for path, file in cls.store.items()}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        path = self._strip_protocol(path)
        if self.fault:
            type(self).fault(mode, path)  # type: ignore[misc]
        if not path.startswith("/lab/"):
            raise FileNotFoundError(f"https://storage.example/upload/b{path}")
        if mode == "rb":
            if path not in self.store:
                raise FileNotFoundError(path)
            return io.BytesIO(self.store[path].getvalue())
        return Upload(self, path)

    def mkdir(self, path: str, *_: Any, **__: Any) -> None:
        raise Refused(f"{path}: a bucket holds no folders")

    makedirs = mkdir

    def mv(self, path: str, *_: Any, **__: Any) -> None:
        raise Refused(f"{path}: a bucket cannot rename")

    rename = mv


class Upload(io.BytesIO):
    """Becomes an object when it is closed."""

    def __init__(self, bucket: MemoryBucket, path: str):
        super().__init__()
        self._bucket, self._path = bucket, path

    def write(self, data: Any) -> int:
        if self._bucket.fault and not self.tell():
            type(self._bucket).fault("write", self._path)  # type: ignore[misc]
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            self._bucket.store[self._path] = MemoryFile(self._bucket, self._path, self.getvalue())
        super().close()
