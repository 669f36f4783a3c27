"""`memlaw sweep` in several processes, and told to stop: the records are those of one process that never was."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memlaw_jax.results import FIELDS
from memlaw_jax.training.distributed import HEARTBEAT

from .fleet import PATIENCE, Fleet, Said, fleet, free_port, simulated

Records = dict[str, dict[str, Any]]
CELLS = 9
UNLIKE = {"seconds", "started", "git", "mesh"}  # what the road to a record may change


@pytest.fixture(scope="module")
def grid(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cells in eight lanes: eight end together, and the last takes a lane that is free."""
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    path.write_text(
        f"""model: {tiny_dir}
task: {{kind: long_context, ratio: 1.0, tokens: 40}}
lengths: [24]
ranks: [1, 2, 4]
seeds: [0, 1, 2]
optim: {{steps: 300, learning_rate: 0.01}}
lanes: 8
steps_per_dispatch: 5
"""
    )
    return path


class Sweeps:
    """`memlaw sweep` of the grid into one folder, in any number of processes."""

    def __init__(self, grid: Path, out: Path, said: Path, environment: Mapping[str, str]):
        self.grid, self.out, self.said, self.environment, self.runs = grid, out, said, environment, 0

    @contextmanager
    def started(self, processes: int, devices: int) -> Iterator[Fleet]:
        """All processes, none of which outlives this."""
        self.runs += 1
        command = [
            sys.executable,
            "-m",
            "memlaw_jax.cli.main",
            "sweep",
            str(self.grid),
            "--out",
            str(self.out),
            "--json",
        ]
        place = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(processes)]
        with fleet(self.said / str(self.runs)) as children:
            for process in range(processes):
                own = [*place, "--process", str(process)] if processes > 1 else []
                children.start([*command, "--out", str(self.out), "--json", *own], simulated(self.environment, devices))
            yield children

    def run(self, processes: int, devices: int) -> list[Said]:
        """To the end."""
        with self.started(processes, devices) as children:
            said = children.wait()
        assert [one.code for one in said] == [0] * processes, "\n".join(one.err for one in said)
        return said

    def stopped(self, processes: int, devices: int, begun: int, stop: Callable[[Fleet], None]) -> list[Said]:
        """Stopped in the middle: once so many cells have taken their first steps."""
        with self.started(processes, devices) as children:
            until = time.monotonic() + PATIENCE
            while len(list(self.out.glob("tensorboard/*"))) < begun:
                assert all(child.poll() is None for child in children.children), self.errors(children)
                assert time.monotonic() < until, "no step is taken"
                time.sleep(0.02)
            stop(children)
            return children.wait(PATIENCE)

    def errors(self, children: Fleet) -> str:
        """Why a process has ended."""
        return "\n".join(children.said(index).err for index in range(len(children.children)))

    def lines(self) -> list[dict[str, Any]]:
        """The records as they stand, complete ones only."""
        path = self.out / "results.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def records(self) -> Records:
        """The finished cells, each of which must be there once."""
        found = self.lines()
        records = {record["cell_id"]: record for record in found}
        assert len(records) == len(found), "a cell was written twice"
        return records

    def history(self, cell: str) -> np.ndarray:
        """The losses of a cell's steps."""
        with np.load(self.out / "tokens" / f"{cell}.npz") as saved:
            return saved["loss_history"]


Made = Callable[[str], Sweeps]


@pytest.fixture
def sweeps(grid: Path, tmp_path: Path, child_environment: dict[str, str]) -> Made:
    return lambda name: Sweeps(grid, tmp_path / name, tmp_path / f"{name} said", child_environment)


@pytest.fixture(scope="module")
def whole(grid: Path, tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]) -> Sweeps:
    """One process of eight devices that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run = Sweeps(grid, folder / "out", folder / "said", child_environment)
    run.run(1, 8)
    assert len(run.records()) == CELLS
    return run


def assert_alike(found: Sweeps, expected: Sweeps) -> None:
    """The same cells with the same numbers, to the last bit, but for when and how fast they were made.

    A device runs the same program however many processes share the mesh.
    """
    one, other = found.records(), expected.records()
    assert set(one) == set(other)
    for cell, record in other.items():
        assert set(FIELDS) <= set(one[cell])
        for key in set(record) - UNLIKE:
            assert one[cell][key] == record[key], (cell, key)
        np.testing.assert_array_equal(found.history(cell), expected.history(cell))


def gone_on(found: Sweeps) -> None:
    """The lanes in training that were saved are the ones that go on."""
    assert list((found.out / "checkpoints").iterdir())


def told(said: Sequence[Said]) -> int:
    """The lanes that were saved, as process 0 tells; the others are silent."""
    for one in said:
        assert one.code == 0 and "Traceback" not in one.err, one.err
    first = json.loads(said[0].out)
    assert first["preempted"] is True and 0 < first["lanes"] <= 8
    assert f"memlaw: stopped by SIGTERM; {first['lanes']} adapters in training are saved; the same" in said[0].err
    assert all(one.out == "" and one.err == "" for one in said[1:])
    return int(first["lanes"])


def test_two_processes_give_the_records_of_one(sweeps: Made, whole: Sweeps) -> None:
    both = sweeps("both")
    first, second = both.run(2, 4)
    result = json.loads(first.out)
    assert (result["cells"], result["new"]) == (CELLS, CELLS)
    assert second.out == "" and second.err == ""
    assert_alike(both, whole)
    assert not (both.out / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_takes_no_finished_cell_along(sweeps: Made, whole: Sweeps, victim: int) -> None:
    """The rest ends, with an error; another number of processes goes on."""
    some = sweeps("some")
    begun: list[float] = []

    def kill(children: Fleet) -> None:
        children.children[victim].kill()
        begun.append(time.monotonic())

    said = some.stopped(2, 4, CELLS, kill)
    assert time.monotonic() - begun[0] < HEARTBEAT + 25
    assert said[victim].code == -signal.SIGKILL and said[1 - victim].code != 0
    kept = some.records()
    assert len(kept) == CELLS - 1
    result = json.loads(some.run(1, 8)[0].out)
    assert (result["cells"], result["new"]) == (CELLS, CELLS - len(kept))
    assert_alike(some, whole)
    for cell, record in kept.items():
        assert some.records()[cell] == record


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_by_sigterm_the_same_command_goes_on(sweeps: Made, whole: Sweeps, processes: int) -> None:
    """Twice, at one process of them; every bit is that of a run which was never stopped."""
    devices, some = 8 // processes, sweeps("some")
    for begun in (1, CELLS):
        told(
            some.stopped(processes, devices, begun, lambda children: children.children[-1].send_signal(signal.SIGTERM))
        )
        gone_on(some)
    assert len(some.records()) == CELLS - 1
    some.run(processes, devices)
    assert_alike(some, whole)
    assert not (some.out / "checkpoints").exists()
