"""The `memlaw` command: parses, runs, and tells mistakes in one sentence."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType

from memlaw_jax.cli import (
    check,
    compare,
    demo,
    export,
    fit,
    microscope,
    plan,
    processes,
    recall,
    remember,
    report,
    sweep,
)
from memlaw_jax.errors import Preempted, UserError
from memlaw_jax.version import __version__

COMMANDS = (demo, sweep, fit, report, plan, microscope, remember, recall, export, compare, check)


class Parser(argparse.ArgumentParser):
    """argparse's own mistakes in our form: one sentence, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"memlaw: error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="memlaw",
        description="How much can a LoRA adapter remember word for word? Measure it, fit the law, predict.",
    )
    top.add_argument("--version", action="version", version=f"memlaw {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        command = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.HELP,
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of words")
        command.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code, as `command` says."""
    return command(parse(parser(), arguments))


def command(args: argparse.Namespace) -> int:
    """Runs `args.run(args)` and prints what it returns, or what went wrong; the exit code.

    0 on success, and when SIGTERM came while lanes were trained, which are saved; 2 on a user's mistake; 130 or 143
    when stopped by a signal elsewhere.
    """
    signal.signal(signal.SIGTERM, _terminate)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    code = _run(args)
    if code:
        processes.leave(code)
    return code


def _run(args: argparse.Namespace) -> int:
    """Runs the command and prints what it returns, or what went wrong; the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            result, words = args.run(args)
    except UserError as error:
        return _told(f"error: {error}", 2)
    except Preempted as stop:
        if processes.speaks():
            _told(f"{stop}; the same command goes on from there.", 0)
            if args.json:
                _say(json.dumps({"preempted": True, "lanes": stop.lanes}))
        return 0
    except KeyboardInterrupt:
        return _told("stopped. Nothing finished is lost; the same command goes on from there.", 130, "\n")
    except _Terminated:
        return _told("terminated. Nothing finished is lost; the same command goes on from there.", 143, "\n")
    except Exception as error:
        if not processes.joined():
            raise
        if not processes.loss(error):
            traceback.print_exc()
            return 1
        return _told("error: another process is gone. Nothing finished is lost; start all of them again.", 1)
    if processes.speaks():
        _say(json.dumps(result) if args.json else words)
    return 0


def _say(words: str) -> None:
    try:
        print(words, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(words: str, code: int, begin: str = "") -> int:
    """The exit code, which standard error explains."""
    print(f"{begin}memlaw: {words}", file=sys.stderr)
    return code


def parse(top: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before and after options; argparse leaves those after an option over."""
    args, rest = top.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args


def _warn(message: Warning | str, *_: object) -> None:
    print(f"memlaw: warning: {message}", file=sys.stderr)


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that files are closed on the way out."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
