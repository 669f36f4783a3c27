"""Checkpoints of lanes in training: adapters, moments and what the host keeps, by orbax, the last few only.

Frozen weights and features are never in them; both are made again from the model and the data.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import absolute, make_folder
from memlaw_jax.training.distributed import agree, barrier, each, is_first

KEPT = 2
EVERY = 20.0  # seconds
SHARE = 0.1  # of the time
SHOWN = 200  # characters of an error


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint as read: a tree of NumPy arrays, and JSON beside it."""

    arrays: Any
    notes: dict[str, Any]


class Checkpoints:
    """A folder of checkpoints, written in the background; it is made with the first one.

    Several processes call everything together, hold the same arrays and see the same folder; how many there are may
    change from one run to the next.

    Args:
      every: seconds from one to the next.
      share: of the time that saving may hold training up; what takes longer is done more seldom.

    Raises:
      UserError: a folder that cannot be written or read.
    """

    def __init__(self, directory: epath.PathLike, every: float = EVERY, share: float = SHARE):
        self.directory, self.share = absolute(epath.Path(directory)), share
        self._last, self._pause = time.monotonic(), every
        self.every = every

    @functools.cached_property
    def _orbax(self) -> Any:
        from orbax.checkpoint import v1 as ocp  # takes seconds, which a short training need not spend

        logging.getLogger("absl").setLevel(logging.CRITICAL + 1)  # its threads log what `_told` tells
        with self._told():
            make_folder(self.directory)
            return ocp.training.Checkpointer(
                self.directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(KEPT),
                cleanup_tmp_directories=True,
            )

    @property
    def due(self) -> bool:
        """Whether the last one is old enough and on the disk; process 0's clock tells all."""
        old = time.monotonic() - self._last >= self._pause
        return agree(old and not ("_orbax" in self.__dict__ and self._orbax.is_saving_in_progress()))

    def save(self, arrays: Any, notes: dict[str, Any]) -> None:
        """Copies the arrays to the host and writes them in the background, once the last one is written.

        Args:
          arrays: a tree of NumPy arrays, or of JAX's that each process holds as a whole.
          notes: JSON.
        """
        with self._told():
            latest = self._orbax.latest
            begun = time.monotonic()
            # of NumPy arrays orbax keeps no sharding, so that other devices can read them
            arrays = jax.device_get(arrays)
            step = agree(0 if latest is None else latest.step + 1)
            # its policies ask each process by itself; `due` has asked for all
            self._orbax.save_async(step, arrays, force=True, custom_metadata=notes)
        self._last = time.monotonic()
        self._pause = max(self.every, (self._last - begun) / self.share)

    def load(self) -> Saved | None:
        """The latest checkpoint that can be read, by every process, or None; warns of those that cannot."""
        if not agree(self.directory.exists()):
            return None
        self._orbax.wait()  # one of this process that is still being written would look torn
        for step in reversed(agree([found.step for found in self._orbax.checkpoints])):
            saved = None
            try:
                notes = self._orbax.metadata(step).custom_metadata
                if not notes:
                    raise ValueError("its notes are gone")
                saved = Saved(arrays=self._orbax.load(step), notes=dict(notes))
            except Exception as error:  # a torn file is any of OSError, ValueError, KeyError, … to orbax
                warnings.warn(
                    f"{self.directory / str(step)} is left out, it cannot be read: {_brief(error)}", stacklevel=2
                )
            if all(each(saved is not None)):
                return saved
        return None

    def close(self) -> None:
        """Waits until everything is on the disk."""
        if "_orbax" in self.__dict__:
            with self._told():
                self._orbax.close()

    def remove(self) -> None:
        """Deletes the folder, whose lanes have all finished."""
        self.close()
        barrier("checkpoints are closed")
        if is_first():
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
    line = str(error).partition("\n")[0].partition(" [tensorstore_spec=")[0]
    return line if len(line) <= SHOWN else f"…{line[-SHOWN:]}"
