"""Several processes on the loopback, each with simulated devices of its own, that never outlive their test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Compilation on a busy machine; what hangs takes all of it, and fails.
PATIENCE = 240.0  # seconds

# The CPU's collectives write to the file descriptor of the standard output, in pieces; Python's own goes elsewhere.
OWN_OUTPUT = """
import os, sys
sys.stdout = open(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
"""

JOIN = (
    OWN_OUTPUT
    + """
from memlaw_jax.training import distributed
distributed.join(os.environ["COORDINATOR"], int(os.environ["PROCESSES"]), int(os.environ["PROCESS"]))
import jax
me = jax.process_index()
"""
)


class Said(NamedTuple):
    """What a process did; negative codes are signals."""

    code: int
    out: str
    err: str


class Fleet:
    """The processes of one run, in their order."""

    def __init__(self, folder: Path):
        self.folder, self.children = folder, list[subprocess.Popen[str]]()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """One more process, whose output goes to files, which never fill up as pipes do."""
        here = self.folder / str(len(self.children))
        with open(f"{here}.out", "w") as out, open(f"{here}.err", "w") as err:
            self.children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True))

    def wait(self, patience: float = PATIENCE) -> list[Said]:
        """Until all have ended.

        Raises:
          subprocess.TimeoutExpired: one hangs.
        """
        until = time.monotonic() + patience
        for child in self.children:
            child.wait(max(0.1, until - time.monotonic()))
        return [self.said(index) for index in range(len(self.children))]

    def said(self, index: int) -> Said:
        """What one of them has said so far, and its code if it has ended."""
        code = self.children[index].poll()
        out, err = ((self.folder / f"{index}.{stream}").read_text() for stream in ("out", "err"))
        return Said(0 if code is None else code, out, err)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def simulated(environment: Mapping[str, str], devices: int) -> dict[str, str]:
    """The environment of a process with so many devices."""
    return dict(environment) | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Kills what is left at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    started = Fleet(folder)
    try:
        yield started
    finally:
        for child in started.children:
            child.kill()
            child.wait()


def run(
    code: str,
    folder: Path,
    environment: Mapping[str, str],
    *arguments: str,
    processes: int = 2,
    devices: int = 2,
    patience: float = PATIENCE,
) -> list[Said]:
    """Runs Python code in processes that have joined; `me` is the index of each."""
    with fleet(folder) as started:
        place = {"COORDINATOR": f"127.0.0.1:{free_port()}", "PROCESSES": str(processes)}
        for process in range(processes):
            own = simulated(environment, devices) | place | {"PROCESS": str(process)}
            started.start([sys.executable, "-c", JOIN + code, *arguments], own)
        return started.wait(patience)


def lines(said: Sequence[Said]) -> list[list[str]]:
    """What all of them printed; none may have failed."""
    for one in said:
        assert one.code == 0, one.err
    return [one.out.splitlines() for one in said]
