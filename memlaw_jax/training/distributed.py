"""Several processes that train together: how they join, agree and notice that one of them is gone.

Every process runs the same program and holds the same state of the host; process 0 alone writes records. A process
that is alone pays nothing for any of this.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, make_folder, read_if_there, reason, write_whole

WAIT = 300.0  # seconds that a process waits for the others to start
HEARTBEAT = 20  # seconds after which a silent process counts as lost, and all others end
MESSAGE = 4000  # bytes of a value that is agreed on
TOLD = 600  # characters of a sentence that is, each of which may take six bytes
LOST = (
    "closed by peer",
    "Connection reset",
    "Socket closed",
    "Broken pipe",
    "heartbeat timeout",
    "tasks are unhealthy",
)


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    wait: float = WAIT,
) -> None:
    """Makes this process one of several, whose devices form one mesh; comes before any JAX computation.

    Without arguments JAX finds them in the environment of Cloud TPU, GKE and SLURM.

    Args:
      coordinator: HOST:PORT of process 0, where it listens.
      processes: how many there are.
      process: which of them this is, from 0 on.
      wait: seconds to wait for the others.

    Raises:
      UserError: arguments that are incomplete or impossible, others that do not come, or JAX is at work already.
    """
    given: dict[str, Any] = {}
    if coordinator is not None or processes is not None or process is not None:
        given = _checked(coordinator, processes, process)
    # JAX's own preemption service would take SIGTERM from Python, and orbax asks it about steps that are not ours.
    jax.config.update("jax_enable_preemption_service", False)
    failed: list[Exception] = []

    def initialize() -> None:
        try:
            # Past its own timeout JAX aborts the process with a stack trace; ours comes first.
            jax.distributed.initialize(
                **given, initialization_timeout=int(wait) + 3600, heartbeat_timeout_seconds=HEARTBEAT
            )
        except Exception as error:
            failed.append(error)

    where = coordinator or "the coordinator that the environment names"
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(wait)
    if thread.is_alive():
        raise UserError(
            f"not all processes met at {where} within {wait:.0f} s; start every one of them, process 0 on that "
            "machine, with the same number of processes and each with an index of its own."
        )
    if failed:
        raise _told(failed[0], where) from failed[0]


def is_first() -> bool:
    """Whether this process writes and speaks for all."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """Process 0's value, which JSON can hold in 4000 bytes, for all; every process must ask."""
    if jax.process_count() == 1:
        return value
    data = json.dumps(value).encode()
    if len(data) > MESSAGE:
        raise ValueError(f"{len(data)} bytes are no small value; processes agree on up to {MESSAGE}.")
    sent = multihost_utils.broadcast_one_to_all(np.frombuffer(data.ljust(MESSAGE), np.uint8))
    return json.loads(sent.tobytes())


def each(flag: bool) -> list[bool]:
    """The flags of all processes, in their order; every process must ask."""
    if jax.process_count() == 1:
        return [flag]
    return [bool(one) for one in np.ravel(multihost_utils.process_allgather(np.array(flag)))]


def barrier(name: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_shared(directory: epath.PathLike) -> None:
    """Refuses an output folder that not every process sees: each needs what process 0 writes there.

    Raises:
      UserError: names the processes that do not see it.
    """
    if jax.process_count() == 1:
        return
    mark, why = as_path(directory) / f".processes-{agree(os.urandom(8).hex())}", None
    if is_first():
        try:
            make_folder(mark.parent)
            write_whole(mark, b"seen")
        except OSError as error:
            why = f"cannot write to {os.fspath(directory)}: {reason(error)}; choose another output folder."[:TOLD]
    if (why := agree(why)) is not None:
        raise UserError(why)
    blind = [str(process) for process, sees in enumerate(each(read_if_there(mark) is not None)) if not sees]
    if is_first():
        mark.unlink()
    if blind:
        raise UserError(
            f"process {', '.join(blind)} does not see {os.fspath(directory)} as process 0 does; choose a folder on a "
            "disk that all processes share, or gs://."
        )


def is_loss(error: BaseException) -> bool:
    """Whether an error of JAX's says that another process is gone."""
    return isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error) for sign in LOST)


def _checked(coordinator: str | None, processes: int | None, process: int | None) -> dict[str, Any]:
    """The arguments as JAX names them."""
    if coordinator is None or processes is None or process is None:
        given = {"the coordinator's HOST:PORT": coordinator, "the number of processes": processes}
        missing = [what for what, value in (given | {"the index of this process": process}).items() if value is None]
        raise UserError(f"several processes need {' and '.join(missing)} as well.")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"the coordinator {coordinator} is not HOST:PORT, such as 10.0.0.1:8476.")
    if processes < 1:
        raise UserError(f"{processes} processes cannot train; give at least 1.")
    if not 0 <= process < processes:
        raise UserError(f"there is no process {process} among {processes}; their indices are 0 to {processes - 1}.")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError:
        raise UserError(f"the coordinator's host {host} has no address; mend its name.") from None
    if process == 0:
        _check_free(int(port))
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}


def _check_free(port: int) -> None:
    """Where another listens already JAX crashes."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"process 0 cannot listen at port {port}: {error.strerror}; choose another.") from None


def _told(error: Exception, where: str) -> UserError:
    """What keeps JAX from joining, in one sentence."""
    line = str(error).partition("\n")[0]
    if "should only be called once" in line:
        return UserError("this process has joined others already.")
    if "must be called before" in line:
        return UserError("processes must be joined before any JAX computation; JAX is at work in this one already.")
    if "be defined" in line:
        return UserError(
            "neither Cloud TPU, GKE nor SLURM is found in the environment; give the coordinator's HOST:PORT, the "
            "number of processes and the index of this one."
        )
    return UserError(f"this process cannot join others at {where}: {line}")
