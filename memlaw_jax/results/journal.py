"""The file of a sweep's finished cells, a line each: it grows by a whole line at a time and has one writer."""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import IO, Protocol

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import is_local, read_if_there, write_whole

LOCK = ".lock"


class Journal(Protocol):
    """What a file of lines can do, wherever it is; what cannot be written raises OSError."""

    def claim(self) -> None:
        """Becomes the only writer.

        Raises:
          UserError: another process is.
        """
        ...

    def read(self) -> bytes:
        """All of it; nothing where there is no file."""
        ...

    def append(self, line: bytes) -> None:
        """Adds a line, which stays, whatever happens to this machine, once this returns; or nothing at all."""
        ...

    def cut(self, size: int) -> None:
        """Keeps the first `size` bytes."""
        ...

    def close(self) -> None:
        """Lets another process write."""
        ...


def open_journal(path: epath.Path) -> Journal:
    """The journal of a local file or of an object in a bucket."""
    return LocalJournal(path) if is_local(path) else BucketJournal(path)


class LocalJournal:
    """Appends, synced, under a lock of the operating system that ends with the process."""

    def __init__(self, path: epath.Path):
        self.path = path
        self._lock: IO[str] | None = None

    def claim(self) -> None:
        lock = open(self.path.parent / LOCK, "w")  # noqa: SIM115 - held until close
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise _taken(self.path) from None
        self._lock = lock

    def read(self) -> bytes:
        return read_if_there(self.path) or b""

    def append(self, line: bytes) -> None:
        rest = memoryview(line)
        # Unbuffered: a buffer would write what it still holds when it is closed, after the cut.
        with open(self.path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                self.cut(size)  # half a line would hide the next one
                raise

    def cut(self, size: int) -> None:
        os.truncate(self.path, size)

    def close(self) -> None:
        if self._lock:
            self._lock.close()


class BucketJournal:
    """Stores the whole object anew with each line, some MB at most, since objects cannot be appended to.

    A bucket has no locks. Its last writer puts its name into `.lock`, and one that finds another name there writes no
    more; so a job that was moved to another machine goes on there, and what may be left of it here stops.
    """

    def __init__(self, path: epath.Path):
        self.path = path
        self._data = b""
        self._name = secrets.token_hex(8).encode()

    def claim(self) -> None:
        write_whole(self.path.parent / LOCK, self._name)

    def read(self) -> bytes:
        self._data = read_if_there(self.path) or b""
        return self._data

    def append(self, line: bytes) -> None:
        self._store(self._data + line)

    def cut(self, size: int) -> None:
        self._store(self._data[:size])

    def close(self) -> None:
        pass

    def _store(self, data: bytes) -> None:
        if read_if_there(self.path.parent / LOCK) != self._name:
            raise _taken(self.path)
        write_whole(self.path, data)
        self._data = data


def _taken(path: epath.Path) -> UserError:
    return UserError(f"another process is writing to {path.parent}; wait for it or choose another.")
