"""Several processes join, agree and see one folder, or end with one sentence; real ones, on the loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.training import distributed

from .fleet import JOIN, OWN_OUTPUT, fleet, free_port, lines, run, simulated


def test_a_process_that_is_alone_agrees_with_itself(tmp_path: Path) -> None:
    value = {"any": object()}  # not even JSON: nothing is sent
    assert distributed.agree(value) is value
    assert distributed.is_first() and distributed.each(True) == [True] and distributed.each(False) == [False]
    distributed.barrier("nobody else")
    distributed.check_shared(tmp_path / "not even made")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"coordinator": "10.0.0.1:8476"}, "the number of processes and the index of this process"),
        ({"processes": 2, "process": 0}, "the coordinator's HOST:PORT"),
        ({"coordinator": "10.0.0.1", "processes": 2, "process": 0}, "10.0.0.1 is not HOST:PORT"),
        ({"coordinator": ":8476", "processes": 2, "process": 0}, ":8476 is not HOST:PORT"),
        ({"coordinator": "10.0.0.1:http", "processes": 2, "process": 0}, "10.0.0.1:http is not HOST:PORT"),
        ({"coordinator": "10.0.0.1:99999", "processes": 2, "process": 0}, "10.0.0.1:99999 is not HOST:PORT"),
        ({"coordinator": "no.such.host.invalid:8476", "processes": 2, "process": 0}, "no.such.host.invalid has no"),
        ({"coordinator": "10.0.0.1:8476", "processes": 0, "process": 0}, "0 processes cannot train"),
        ({"coordinator": "10.0.0.1:8476", "processes": 2, "process": 2}, "no process 2 among 2; their indices are 0"),
        ({"coordinator": "10.0.0.1:8476", "processes": 2, "process": -1}, "no process -1 among 2"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_tried(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        distributed.join(**given)
    assert "\n" not in str(error.value)


AGREED = """
from memlaw_jax.training.distributed import agree, barrier, check_shared, each, is_first
assert jax.device_count() == 4 and jax.local_device_count() == 2
print(agree({"text": f"from {me} ½", "number": me + 0.1}), agree(me == 0), agree(None), agree("x" * 900) == "x" * 900)
print(each(me == 1), each(True), is_first())
barrier("end")
check_shared(sys.argv[1])
try:
    agree("x" * 5000)
except ValueError as error:
    print(error)
"""


def test_processes_agree(tmp_path: Path, child_environment: dict[str, str]) -> None:
    first, second = lines(run(AGREED, tmp_path, child_environment, str(tmp_path / "out" / "deep")))
    assert first[0] == second[0] == "{'text': 'from 0 ½', 'number': 0.1} True None True"
    assert first[1] == "[False, True] [True, True] True" and second[1] == "[False, True] [True, True] False"
    assert list((tmp_path / "out" / "deep").iterdir()) == []  # it is made, and nothing is left in it
    assert first[2] == second[2] == "5002 bytes are no small value; processes agree on up to 4000."


BLIND = """
from memlaw_jax.errors import UserError
from memlaw_jax.training.distributed import check_shared
try:
    check_shared(os.path.join(sys.argv[1], str(me)))  # as on two machines, where one name is two folders
except UserError as error:
    print(error)
"""


def test_a_folder_that_is_not_shared_is_refused_by_all(tmp_path: Path, child_environment: dict[str, str]) -> None:
    for process, (told,) in enumerate(lines(run(BLIND, tmp_path, child_environment, str(tmp_path)))):
        assert told.startswith(f"process 1 does not see {tmp_path / str(process)} as process 0 does; choose a folder")
    assert list((tmp_path / "0").iterdir()) == []


ALONE = """
import sys
from memlaw_jax.errors import UserError
from memlaw_jax.training import distributed
try:
    distributed.join(*eval(sys.argv[1]), wait=3)
except UserError as error:
    print(error)
"""


def alone(environment: dict[str, str], *given: object) -> str:
    """What `join` tells in a process without others."""
    command = [sys.executable, "-c", ALONE, repr(given)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_others_that_do_not_come_are_not_waited_for_for_ever(child_environment: dict[str, str]) -> None:
    for process in (0, 1):
        place = f"127.0.0.1:{free_port()}"
        told = alone(child_environment, place, 2, process)
        assert told.startswith(f"not all processes met at {place} within 3 s; start every one of them, process 0 on")
        assert told.count("\n") == 1


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"process 0 cannot listen at port {port}: Address already in use; choose"):
            distributed.join(f"127.0.0.1:{port}", 2, 0)


def test_without_a_cluster_in_the_environment_it_must_be_given(child_environment: dict[str, str]) -> None:
    assert alone(child_environment).startswith("neither Cloud TPU, GKE nor SLURM is found in the environment; give the")


LATE = (
    """
import jax
jax.devices()
"""
    + ALONE
)


def test_jax_must_not_be_at_work_yet(child_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", LATE, repr((f"127.0.0.1:{free_port()}", 1, 0))]
    child = subprocess.run(command, env=child_environment, capture_output=True, text=True, timeout=60)
    assert child.stdout == (
        "processes must be joined before any JAX computation; JAX is at work in this one already.\n"
    ), child.stderr


def test_slurm_tells_who_is_who(tmp_path: Path, child_environment: dict[str, str]) -> None:
    """As `srun` sets it; the port follows from the job's number, whose last 12 bits are free to choose."""
    job = next(number for number in range(1000, 5000) if not listening(number % 2**12 + 65536 - 2**12))
    code = OWN_OUTPUT + "from memlaw_jax.training import distributed as d; d.join(); print(d.each(d.is_first()))"
    with fleet(tmp_path) as started:
        for process in range(2):
            slurm = {"JOB_ID": job, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": process, "LOCALID": process}
            own = simulated(child_environment, 1) | {f"SLURM_{name}": str(value) for name, value in slurm.items()}
            started.start([sys.executable, "-c", code], own)
        assert lines(started.wait()) == [["[True, False]"]] * 2


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


KILLED = """
import time
from memlaw_jax.training.distributed import agree, is_loss
print(agree("together"), flush=True)
try:
    while True:
        agree(me) if sys.argv[1] == "collective" else time.sleep(1)
except Exception as error:
    print(is_loss(error), flush=True)
    os._exit(1)
"""


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("at", ["collective", "sleep"])
def test_when_one_is_killed_the_other_ends(
    at: str, victim: int, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """In a collective of the CPU's at once and with an error; elsewhere JAX aborts the process, after its heartbeat."""
    with fleet(tmp_path) as started:
        place = {"COORDINATOR": f"127.0.0.1:{free_port()}", "PROCESSES": "2"}
        for process in range(2):
            own = simulated(child_environment, 1) | place | {"PROCESS": str(process)}
            started.start([sys.executable, "-c", JOIN + KILLED, at], own)
        until = time.monotonic() + 120
        while not all("together" in started.said(index).out for index in range(2)) and time.monotonic() < until:
            time.sleep(0.1)
        started.children[victim].kill()
        begun = time.monotonic()
        said = started.wait(90)
        took = time.monotonic() - begun
    other = said[1 - victim]
    assert said[victim].code == -signal.SIGKILL and other.code != 0
    assert took < distributed.HEARTBEAT + 25  # which is generous on a busy machine
    if at == "collective":
        assert "True" in other.out or other.code == -signal.SIGABRT
