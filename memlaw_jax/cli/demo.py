"""`memlaw demo`: the whole road on the embedded base model, in minutes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from memlaw_jax.cli.fit import law_json

NAME = "demo"
HELP = "Sweep, fit and draw the memory law on the embedded base model: under 3 minutes on 2 CPU cores."
EXAMPLE = """example:
  memlaw demo --out runs/demo

Trains adapters of several ranks to recall random token sequences of several lengths, with the base model that comes
with the package, fits the law, draws the figures, writes the report, and says what was found. It runs `memlaw sweep`,
`memlaw fit` and `memlaw report`."""

CONFIG = Path(__file__).with_name("demo.yaml")


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("--out", metavar="DIR", default="runs/demo", help="results folder (default: runs/demo)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Runs the demo; returns the JSON result and the words for a person."""
    begun = time.perf_counter()
    from memlaw_jax.analysis import fit_and_draw, write_report
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.models import load_base
    from memlaw_jax.paths import as_path
    from memlaw_jax.training.logging import Log
    from memlaw_jax.training.sweep import run_sweep

    config, out = read_config(CONFIG), as_path(args.out)
    if not args.json:
        print(f"{_cells(config)} adapters on the embedded base model; results go to {out}.", file=sys.stderr)
    base = load_base(config.model, config.dtype)
    log = Log(out, bar=not args.json)
    results = run_sweep(base, config, out, log)
    law, written, found = fit_and_draw([out], out / "law")
    _, page, _ = write_report([out], out / "report.html")
    seconds = round(time.perf_counter() - begun, 1)
    frame = results.frame()
    recalled = frame[frame["exact_match"] == 1.0]
    longest = recalled.groupby("rank")["length"].max()
    words = [
        found,
        _recalled(longest),
        f"\nTook {seconds:.0f} s, {log.new} of {len(frame)} adapters trained now. Files:",
        f"  {page}",
        f"  {out / 'results.jsonl'}",
    ]
    result = law_json(law) | {
        "seconds": seconds,
        "new": log.new,
        "out": str(out),
        "report": str(page),
        "files": [str(path) for path in written],
    }
    return result, "\n".join(words + [f"  {path}" for path in written])


def _cells(config: Any) -> int:
    return len(config.ranks) * len(config.lengths) * len(config.seeds)


def _recalled(longest: Any) -> str:
    if longest.empty:
        return "No adapter recalled its whole sequence."
    pairs = ", ".join(f"rank {rank}: {length}" for rank, length in longest.items())
    return f"Longest sequence recalled word for word, in tokens: {pairs}."
