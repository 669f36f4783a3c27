"""Checkpoints of lanes in training: adapters, moments and what the host keeps, by orbax, the last few only.

Frozen weights and features are never in them; both are made again from the model and the data.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from etils import epath

from memlaw_jax.errors import UserError

KEPT = 2
EVERY = 20.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint as read: a tree of NumPy arrays, and JSON beside it."""

    arrays: Any
    notes: dict[str, Any]


class Checkpoints:
    """A folder of checkpoints, written in the background; it is made with the first one.

    Args:
      every: seconds from one to the next.

    Raises:
      UserError: a folder that cannot be written or read.
    """

    def __init__(self, directory: str | os.PathLike[str], every: float = EVERY):
        self.directory, self.every = epath.Path(directory).resolve(), every
        self._last = time.monotonic()

    @functools.cached_property
    def _orbax(self) -> Any:
        from orbax.checkpoint import v1 as ocp  # takes seconds, which a short training need not spend

        logging.getLogger("absl").setLevel(logging.ERROR)
        with self._told():
            self.directory.mkdir(parents=True, exist_ok=True)
            return ocp.training.Checkpointer(
                self.directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
                cleanup_tmp_directories=True,
            )

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._last >= self.every

    def save(self, arrays: Any, notes: dict[str, Any]) -> None:
        """Copies the arrays to the host and writes them in the background."""
        with self._told():
            latest = self._orbax.latest
            self._orbax.save_async(0 if latest is None else latest.step + 1, arrays, custom_metadata=notes)
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """The latest checkpoint, or None."""
        if not self.directory.exists() or (latest := self._orbax.latest) is None:
            return None
        with self._told():
            return Saved(arrays=self._orbax.load(latest.step), notes=dict(latest.custom_metadata or {}))

    def close(self) -> None:
        """Waits until everything is on the disk."""
        if "_orbax" in self.__dict__:
            with self._told():
                self._orbax.close()

    def remove(self) -> None:
        """Deletes the folder, whose lanes have all finished."""
        self.close()
        if self.directory.exists():
            self.directory.rmtree()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"checkpoints in {self.directory} cannot be written or read: {error.strerror or error}. All finished "
                "cells are kept."
            ) from error
