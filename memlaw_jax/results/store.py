"""An append-only folder of finished cells that survives a kill at any moment.

`results.jsonl` gets one line, synced to the disk, once a cell is complete; a torn last line (the machine died in the
middle of a write) is cut off when the folder is next opened, and its cell run again. `sweep.json` says which sweep the
folder belongs to, `tokens/<cell_id>.npz` holds a cell's per-token arrays.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from memlaw_jax.errors import UserError
from memlaw_jax.results.record import to_line

RESULTS, MANIFEST, TOKENS, LOCK = "results.jsonl", "sweep.json", "tokens", ".lock"


class ResultStore:
    """The folder of one sweep, open for writing by one process.

    Args:
      identity: what all its cells share (model, data, adapter, optimiser); another sweep's folder is refused. The axes
        of the grid are no part of it, so a sweep may grow.

    Raises:
      UserError: an unwritable folder, another sweep's folder, or one that another process is writing to.
    """

    def __init__(self, directory: str | os.PathLike[str], identity: Mapping[str, Any]):
        if ":/" in os.fspath(directory):
            raise UserError(f"{os.fspath(directory)} is no local folder; results can be written to local folders only.")
        self.directory = Path(directory)
        self.results = self.directory / RESULTS
        with self._told():
            (self.directory / TOKENS).mkdir(parents=True, exist_ok=True)
            self._lock = open(self.directory / LOCK, "w")  # noqa: SIM115 - held until close
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"another process is writing to {self.directory}; wait for it or choose another.") from None
        try:
            self._claim(dict(identity))
            self.records = self._read()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def finished(self) -> set[str]:
        """Ids of the cells that are done."""
        return {record["cell_id"] for record in self.records}

    def append(self, record: Mapping[str, Any], tokens: Mapping[str, np.ndarray]) -> None:
        """Saves a finished cell: its arrays first, then its line, each synced before this returns."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **tokens)  # type: ignore[arg-type]
        with self._told():
            path = self.directory / TOKENS / f"{record['cell_id']}.npz"
            scratch = path.with_suffix(".part")
            _write_synced(scratch, buffer.getvalue())
            os.replace(scratch, path)
            _sync_folder(path.parent)
            line = to_line(record)
            self._append_line(line)
        self.records.append(json.loads(line))  # as it will be read

    def _append_line(self, line: str) -> None:
        rest = memoryview(line.encode())
        # Unbuffered: a buffer would write what it still holds when it is closed, after the cut.
        with open(self.results, "ab", buffering=0) as file:
            size = file.tell()
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.results, size)  # half a line would hide the next one
                raise

    def _claim(self, identity: dict[str, Any]) -> None:
        """Writes what the folder belongs to, or checks it."""
        path = self.directory / MANIFEST
        identity = json.loads(json.dumps(identity))
        if not path.exists():
            if self.results.exists():
                raise UserError(f"{self.directory} holds {RESULTS} but no {MANIFEST}; choose another output folder.")
            with self._told():
                scratch = path.with_suffix(".part")
                _write_synced(scratch, (json.dumps(identity, indent=2) + "\n").encode())
                os.replace(scratch, path)
            return
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            raise UserError(f"{path} is no JSON object; choose another output folder.") from None
        if found != identity:
            none = "absent"
            key = next(key for key in [*identity, *found] if identity.get(key, none) != found.get(key, none))
            raise UserError(
                f"{self.directory} belongs to another sweep: its {key} is {found.get(key, none)}, yours "
                f"{identity.get(key, none)}; "
                "choose another output folder."
            )

    def _read(self) -> list[dict[str, Any]]:
        """The complete lines; cuts off a torn tail."""
        if not self.results.exists():
            return []
        data = self.results.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            with self._told():
                os.truncate(self.results, complete)
        records = []
        for number, line in enumerate(data[:complete].splitlines(), start=1):
            try:
                record = json.loads(line)
                record["cell_id"]
            except (ValueError, TypeError, KeyError):
                raise UserError(f"{self.results}, line {number} is no record; remove that line to go on.") from None
            records.append(record)
        return records

    @contextmanager
    def _told(self) -> Any:
        """Turns what the operating system refuses into one sentence."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                advice = "no space is left on the disk; free some and run the same command again"
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                advice = "it may not be written to; choose another output folder"
            elif error.errno in (errno.ENOTDIR, errno.EEXIST):
                advice = "a file stands in its place; choose another output folder"
            else:
                advice = error.strerror or str(error)
            raise UserError(f"cannot write to {self.directory}: {advice}. All finished cells are kept.") from error


def _sync_folder(path: Path) -> None:
    """Makes a rename last through a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
