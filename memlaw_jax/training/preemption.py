"""SIGTERM while lanes are trained: all processes stop after the same dispatch, with their lanes saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from memlaw_jax.errors import Preempted
from memlaw_jax.training.distributed import each

__all__ = ["Preempted", "Preemption"]


class Preemption:
    """Inside `with`, SIGTERM interrupts nothing and is remembered; outside it does what it did before.

    Python gives signals to its main thread alone, so that in any other nothing changes.
    """

    def __init__(self) -> None:
        self._signalled = self._reached = self._listens = False
        self._before: Any = None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before, self._listens = signal.signal(signal.SIGTERM, self._remember), True
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:  # of a handler that is not Python's own nothing is known but that there was one
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._listens = False

    def reached(self) -> bool:
        """Whether any process was told to stop: asked by all before each dispatch, the point at which all of them do.

        JAX's `reached_preemption_sync_point` would do this some dispatches later, if orbax did not count there too.
        """
        self._reached = self._reached or any(each(self._signalled))
        return self._reached

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True
