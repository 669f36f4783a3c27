"""Several processes, on the command line: joining them, who of them speaks, and leaving when something fails."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings

from memlaw_jax.errors import UserError

MOMENT = 1.0  # seconds


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments that make this process one of several."""
    group = command.add_argument_group("several processes, each of which runs this same command")
    group.add_argument("--distributed", action="store_true", help="find the others through Cloud TPU, GKE or SLURM")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, elsewhere")
    group.add_argument("--processes", metavar="N", type=int, help="how many there are")
    group.add_argument("--process", metavar="I", type=int, help="which of them this is: 0 to N - 1")


def join(args: argparse.Namespace) -> bool:
    """Joins the other processes, if the arguments name any; whether this one speaks for all.

    Raises:
      UserError: arguments that contradict one another or lack others, or others that do not come.
    """
    options = {"--coordinator": args.coordinator, "--processes": args.processes, "--process": args.process}
    missing = [name for name, value in options.items() if value is None]
    if args.distributed and len(missing) < 3:
        given = next(name for name in options if name not in missing)
        raise UserError(f"--distributed finds everything in the environment; leave out {given}.")
    if not args.distributed and len(missing) == 3:
        return True
    if not args.distributed and missing:
        raise UserError(f"--coordinator, --processes and --process belong together; add {' and '.join(missing)}.")
    from memlaw_jax.training import distributed

    distributed.join(args.coordinator, args.processes, args.process)
    _quieten()
    if not speaks():
        warnings.simplefilter("ignore")
    return speaks()


def joined() -> bool:
    """Whether this process is one of several; imports nothing in one that is not."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def speaks() -> bool:
    """Whether this process speaks for all: the only one, or process 0."""
    if not joined():
        return True
    from memlaw_jax.training import distributed

    return distributed.is_first()


def loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    from memlaw_jax.training import distributed

    return distributed.is_loss(error)


def leave(code: int) -> None:
    """Ends a process that has failed among several; at its regular end it would wait for others that wait for it."""
    if joined():
        time.sleep(MOMENT)  # all may have failed the same way: when one is gone JAX aborts those that still speak
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _quieten() -> None:
    """Keeps standard output for our own words: the CPU's collectives (Gloo) print there how they connect."""
    ours = os.dup(sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.stdout = open(ours, "w", encoding=sys.stdout.encoding)  # noqa: SIM115 - until the end
