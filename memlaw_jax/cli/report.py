"""`memlaw report`: one page with all that results say."""

from __future__ import annotations

import argparse
from typing import Any

from memlaw_jax.cli.fit import law_json

NAME = "report"
HELP = "Write one self-contained HTML page about results: the law, its certainty, rivals, capacity, every cell."
EXAMPLE = """examples:
  memlaw report runs/demo
  memlaw report runs/seed0 runs/seed1 --out both.html --filter paper

RESULTS is what `memlaw fit` takes. Several methods get a law each. The page loads nothing from elsewhere, so it can be
mailed and opened anywhere; figures follow the reader's light or dark setting."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("results", metavar="RESULTS", nargs="+", help="results folders or files")
    command.add_argument("--out", metavar="FILE", help="the page (default: report.html in the folder of RESULTS)")
    command.add_argument("--method", metavar="M", help="report on this method only")
    command.add_argument(
        "--filter",
        choices=("predicted", "tobit", "paper"),
        default="predicted",
        help="saturated cells are dropped whole, by predicted loss (default), kept as bounds, or dropped run by run",
    )
    command.add_argument(
        "--loss", choices=("squared", "huber"), default="squared", help="huber is not bent by a few badly trained runs"
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Fits and writes; returns the JSON result and the words for a person."""
    from memlaw_jax.analysis.report import write_report
    from memlaw_jax.paths import as_path, folder_of

    out = as_path(args.out) if args.out else folder_of(args.results[0]) / "report.html"
    laws, written, words = write_report(args.results, out, filter=args.filter, method=args.method, loss=args.loss)
    found = {"out": str(written), "laws": [{"method": law.method} | law_json(law) for law in laws]}
    return found, "\n".join([words, "", "Written:", f"  {written}"])
