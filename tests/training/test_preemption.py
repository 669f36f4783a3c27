"""SIGTERM while lanes are trained: remembered, agreed on, and nobody else's business; real signals."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from memlaw_jax.training.preemption import Preempted, Preemption

from .fleet import lines, run


def test_inside_it_is_remembered_and_outside_it_is_as_before() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        with Preemption() as preemption:
            assert not preemption.reached()
            os.kill(os.getpid(), signal.SIGTERM)
            assert preemption.reached() and preemption.reached()  # of every pool that is still to come
        assert seen == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM] * 2
        with Preemption() as again:
            assert not again.reached()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_thread_other_than_the_main_one_leaves_signals_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with Preemption() as preemption:
            found.append((signal.getsignal(signal.SIGTERM), preemption.reached()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, False)] and signal.getsignal(signal.SIGTERM) == before


def test_what_was_saved_is_told() -> None:
    assert str(Preempted(3)) == "stopped by SIGTERM; 3 adapters in training are saved" and Preempted(3).lanes == 3


DISPATCHES = """
import signal, time
import numpy as np
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.distributed import agree
from memlaw_jax.training.preemption import Preemption
checkpoints = Checkpoints(sys.argv[1], every=0)
signalled = eval(sys.argv[2])
with Preemption() as preemption:
    for dispatch in range(100):
        agree("as long as metrics are fetched all processes are in the same dispatch")
        if dispatch == 3 and me in signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        if preemption.reached():
            break
        if checkpoints.due:  # whose own idea of a preemption must not get in between
            checkpoints.save({"lane": np.arange(3)}, {"cell": {"done": dispatch}})
checkpoints.save({"lane": np.arange(3)}, {"cell": {"done": dispatch}})
checkpoints.close()
print(dispatch, Checkpoints(sys.argv[1]).load().notes, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


def test_all_processes_stop_after_the_same_dispatch(tmp_path: Path, child_environment: dict[str, str]) -> None:
    told: dict[str, Any] = {}
    for signalled in ([1], [0, 1]):
        folder = tmp_path / "".join(map(str, signalled))
        said = run(DISPATCHES, folder / "said", child_environment, str(folder / "kept"), repr(signalled))
        first, second = lines(said)
        assert first == second
        told[str(signalled)] = first
    stopped = ["3 {'cell': {'done': 3}} True"]
    assert told == {"[1]": stopped, "[0, 1]": stopped}
