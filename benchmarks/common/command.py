"""The command line of the paper's benchmarks: run or resume the sweeps, then the table; or predict what that takes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.given import Given, Part
from common.machine import command_line, hardware
from common.table import Report, finish
from memlaw_jax.analysis.files import folder, write
from memlaw_jax.cli import processes
from memlaw_jax.cli.main import Parser, command, parse
from memlaw_jax.errors import UserError
from memlaw_jax.paths import read_if_there
from memlaw_jax.training import SweepConfig

SCALES = ("embedded", "paper", "tiny")
TOLD = "run.json"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One table or figure of the paper.

    Attributes:
      name: of the script, without its ending.
      doc: its docstring.
      parts: the sweeps of a scale.
      report: what their records say; it reads nothing but the folders of the parts.
      arguments: adds the script's own arguments, if it has any.
    """

    name: str
    doc: str
    parts: Callable[[Given], Sequence[Part]]
    report: Callable[[Given, Sequence[Part]], Report]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None

    def parser(self) -> argparse.ArgumentParser:
        """`--help` is the docstring."""
        made = Parser(
            prog=f"{self.name}.py", description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add = made.add_argument
        add("--scale", choices=SCALES, default="embedded", help="tiny only shows that the script works")
        add("--model", metavar="PATH", help="with --scale paper: directory or hub id of Qwen3-8B or Llama-3.1-8B")
        add("--hardware", metavar="NAME", help="with --scale paper: the machine, by its name in tpu_configs/")
        add("--out", metavar="DIR", help=f"results folder or gs:// URL (default: runs/{self.name})")
        add("--pytorch", metavar="RESULTS", help="results of a PyTorch run, for the table's last column")
        add("--dry-run", action="store_true", help="print cells, FLOPs, predicted time and memory, and train nothing")
        add("--report-only", action="store_true", help="tables and figures of the records that are there")
        add("overrides", metavar="key=value", nargs="*", help="replaces a value of every sweep")
        self.arguments(made)
        processes.arguments(made)
        made.set_defaults(run=self.run, json=False)
        return made

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs the script; the exit code, as `memlaw` has them."""
        return command(parse(self.parser(), arguments))

    def run(self, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
        """Trains what is missing and reports; the words for a person."""
        _check(args)
        given = Given(args, self.name)
        parts = self.parts(given)
        given.pytorch()  # before hours of training
        if args.dry_run:
            return {}, _predicted(parts)
        speaks = processes.join(args) if args.report_only else train(given, parts, args)
        if not speaks:
            return {}, ""
        told = _told(given)
        found = self.report(given, parts)
        return {}, finish(folder(given.out), {"benchmark": self.name} | told, found)


def train(given: Given, parts: Sequence[Part], args: argparse.Namespace) -> bool:
    """Every sweep that is not finished; whether this process speaks for all."""
    from memlaw_jax.check.flags import VARIABLES, flag_environment

    flags = sorted({flag for part in parts for flag in part.config.xla_flags})
    for platform in VARIABLES:  # each reads its own when a process first meets its devices
        os.environ.update(flag_environment(tuple(flags), platform, os.environ))
    speaks = processes.join(args)
    if speaks:
        _tell(given)
    from memlaw_jax.models import load_base
    from memlaw_jax.training import run_sweep
    from memlaw_jax.training.logging import Log

    loaded: dict[Any, Any] = {}
    for part in parts:
        config, out = part.config, given.out / part.folder
        placement = config.placement()
        key = config.model, config.dtype, config.attention, placement.mesh
        if key not in loaded:
            loaded.clear()
            loaded[key] = load_base(config.model, config.dtype, placement.mesh, config.attention)
        if speaks:
            print(f"{given.name}: {part.folder}, into {out}", file=sys.stderr, flush=True)
        run_sweep(loaded[key], config, out, Log(out) if speaks else None)
    return speaks


def _check(args: argparse.Namespace) -> None:
    if args.scale == "paper":
        for name, example in (("model", "models/Qwen3-8B"), ("hardware", "v5e-16")):
            if getattr(args, name) is None:
                raise UserError(f"--scale paper needs --{name}, such as {example}.")
    else:
        for name in ("model", "hardware"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} {getattr(args, name)} goes with --scale paper; the scale is {args.scale}.")


def _predicted(parts: Sequence[Part]) -> str:
    """What the sweeps would take, for the hardware of their configs or this machine; of equal ones it is told once."""
    from memlaw_jax.check import GridPrediction, GridTotals, predict_grid

    made: dict[str, GridPrediction] = {}
    folders: dict[str, list[str]] = {}
    for part in parts:
        shape = _shape(part.config)
        if shape not in made:
            made[shape] = predict_grid(part.config)
        folders.setdefault(shape, []).append(part.folder)
    lines = [f"{_each(folders[shape])}\n{grid.words()}\n" for shape, grid in made.items()]
    if len(parts) > 1:
        totals = GridTotals(grids=tuple(made[shape] for shape in made for _ in folders[shape]))
        lines.append(totals.words().splitlines()[-1])
    return "\n".join([*lines, "Cells that are finished already are counted, too."])


def _each(folders: Sequence[str]) -> str:
    return ", ".join(folders) + (", each:" if len(folders) > 1 else ":")


def _shape(config: SweepConfig) -> str:
    """Equal for sweeps that differ in seeds, or in the tokens of a text of given length, and so take equally long."""
    kept = {key: value for key, value in config.task.items() if key != "seed"}
    if kept["kind"] == "long_context" and None not in config.lengths:
        kept = {key: value for key, value in kept.items() if key not in ("ratio", "text")}
    return repr(vars(config) | {"task": kept, "seeds": len(config.seeds)})


def _tell(given: Given) -> None:
    """Writes what the report will say of this run, so that `--report-only` can tell of one that is not finished."""
    told = {"command": command_line(f"{given.name}.py", sys.argv[1:]), "scale": given.scale} | hardware()
    write(folder(given.out) / TOLD, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def _told(given: Given) -> dict[str, Any]:
    """What the training run said of itself."""
    path = given.out / TOLD
    data = read_if_there(path)
    if data is None:
        raise UserError(f"there is no {path}; run the benchmark without --report-only first.")
    found: dict[str, Any] = json.loads(data)
    return found
