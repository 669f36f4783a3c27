"""An append-only folder of finished cells that survives a kill at any moment.

`results.jsonl` gets one line once a cell is complete; a torn last line (the machine died in the middle of a write) is
cut off when the folder is next opened, and its cell run again. `sweep.json` says which sweep the folder belongs to,
`tokens/<cell_id>.npz` holds a cell's per-token arrays.
"""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, make_folder, read_if_there, reason, write_whole
from memlaw_jax.results.journal import open_journal
from memlaw_jax.results.record import to_line

RESULTS, MANIFEST, TOKENS = "results.jsonl", "sweep.json", "tokens"


class ResultStore:
    """The folder of one sweep, open for writing by one process.

    On a local disk what is written is synced. In a bucket it is stored when the write returns: `results.jsonl` as a
    whole, and of two processes that write, the one that opened the folder first stops (`journal.BucketJournal`).

    Args:
      directory: a local folder, or a bucket's URL such as `gs://bucket/runs/mine`.
      identity: what all its cells share (model, data, adapter, optimiser); another sweep's folder is refused. The axes
        of the grid are no part of it, so a sweep may grow.
      writer: False writes and locks nothing, and keeps what is appended in `records` only: for all processes but the
        first of those that run one sweep together.

    Raises:
      UserError: an unwritable folder, another sweep's folder, or one that another process is writing to.
    """

    def __init__(self, directory: epath.PathLike, identity: Mapping[str, Any], *, writer: bool = True):
        self.directory, self.writer = as_path(directory), writer
        self.results = self.directory / RESULTS
        self._journal = open_journal(self.results)
        try:
            with self._told():
                if writer:
                    self._claim(json.loads(json.dumps(identity)))
                else:
                    self._belongs_to(json.loads(json.dumps(identity)))
                self.records = self._read()
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    @property
    def finished(self) -> set[str]:
        """Ids of the cells that are done."""
        return {record["cell_id"] for record in self.records}

    def append(self, record: Mapping[str, Any], tokens: Mapping[str, np.ndarray]) -> None:
        """Saves a finished cell: its arrays first, then its line, each for good before this returns."""
        line = to_line(record)
        if self.writer:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **tokens)  # type: ignore[arg-type]
            with self._told():
                write_whole(self.directory / TOKENS / f"{record['cell_id']}.npz", buffer.getvalue())
                self._journal.append(line.encode())
        self.records.append(json.loads(line))  # as it will be read

    def _claim(self, identity: dict[str, Any]) -> None:
        """Becomes the writer, and writes what the folder belongs to where it belongs to nobody."""
        make_folder(self.directory / TOKENS)
        self._belongs_to(identity)  # first, because a sweep that is refused must not stop the one that it meets
        self._journal.claim()
        if not self._belongs_to(identity):
            write_whole(self.directory / MANIFEST, (json.dumps(identity, indent=2) + "\n").encode())

    def _belongs_to(self, identity: dict[str, Any]) -> bool:
        """Whether the folder is this sweep's; False if it is nobody's yet."""
        path = self.directory / MANIFEST
        data = read_if_there(path)
        if data is None:
            if read_if_there(self.results) is not None:
                raise UserError(f"{self.directory} holds {RESULTS} but no {MANIFEST}; choose another output folder.")
            return False
        try:
            found = json.loads(data)
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            raise UserError(f"{path} is no JSON object; choose another output folder.") from None
        if found != identity:
            none = "absent"
            key = next(key for key in [*identity, *found] if identity.get(key, none) != found.get(key, none))
            raise UserError(
                f"{self.directory} belongs to another sweep: its {key} is {found.get(key, none)}, yours "
                f"{identity.get(key, none)}; choose another output folder."
            )
        return True

    def _read(self) -> list[dict[str, Any]]:
        """The complete lines; the writer cuts off a torn tail."""
        data = self._journal.read()
        complete = data.rfind(b"\n") + 1
        if complete < len(data) and self.writer:
            self._journal.cut(complete)
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
    def _told(self) -> Iterator[None]:
        """Turns what the operating system or a bucket refuses into one sentence."""
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
                advice = reason(error)
            raise UserError(f"cannot write to {self.directory}: {advice}. All finished cells are kept.") from error
