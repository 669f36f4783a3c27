"""Checkpoints of lanes in training: adapters, moments and what the host keeps, by orbax, the last few only.

Frozen weights and features are never in them; both are made again from the model and the data.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath

from memlaw_jax.errors import UserError

KEPT = 2
EVERY = 20.0  # seconds
SHOWN = 200  # characters of an error


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

        logging.getLogger("absl").setLevel(logging.CRITICAL + 1)  # its threads log what `_told` tells
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
        """Copies the arrays to the host and writes them in the background; skipped while the last one is written."""
        with self._told():
            latest = self._orbax.latest
            # of NumPy arrays orbax keeps no sharding, so that other devices can read them
            arrays = jax.device_get(arrays)
            self._orbax.save_async(0 if latest is None else latest.step + 1, arrays, custom_metadata=notes)
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """The latest checkpoint that can be read, or None; warns of those that cannot."""
        if not self.directory.exists():
            return None
        self._orbax.wait()  # one of this process that is still being written would look torn
        for found in reversed(self._orbax.checkpoints):
            try:
                notes = self._orbax.metadata(found.step).custom_metadata  # which `found` itself lacks
                if not notes:
                    raise ValueError("its notes are gone")
                return Saved(arrays=self._orbax.load(found.step), notes=dict(notes))
            except Exception as error:  # a torn file is any of OSError, ValueError, KeyError, … to orbax
                warnings.warn(f"{found.path} is left out, it cannot be read: {_brief(error)}", stacklevel=2)
        return None

    def close(self) -> None:
        """Waits until everything is on the disk."""
        if "_orbax" in self.__dict__:
            with self._told():
                self._orbax.close()

    def remove(self) -> None:
        """Deletes the folder, whose lanes have all finished."""
        self.close()
        with self._told():
            if self.directory.exists():
                self.directory.rmtree()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a full disk is an OSError or, out of TensorStore, a ValueError of many lines
            reason = getattr(error, "strerror", None) or _brief(error)
            raise UserError(
                f"checkpoints in {self.directory} cannot be written or read: {reason}. All finished cells are kept."
            ) from error


def _brief(error: Exception) -> str:
    """The end of the first line of an error: TensorStore's begin with where, and end with why."""
    line = str(error).partition("\n")[0]
    return line if len(line) <= SHOWN else f"…{line[-SHOWN:]}"
