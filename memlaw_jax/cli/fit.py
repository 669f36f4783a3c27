"""`memlaw fit`: the law of a set of results."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "fit"
HELP = "Fit the memory law ΔL = C·r^α·ℓ^(−β) + b to results, with intervals and figures."
EXAMPLE = """examples:
  memlaw fit runs/demo
  memlaw fit seed0.csv seed1.csv --out runs/both --filter paper
  memlaw fit ../ParametricMemoryLaw/generation/pb --method memft-ot --out runs/paper

RESULTS is a folder with results.jsonl, a CSV or Parquet file with the columns rank, length, loss_initial and loss_final
(losses in nats per answer token), or the output tree of the paper's PyTorch release."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("results", metavar="RESULTS", nargs="+", help="results folders or files")
    command.add_argument(
        "--out", metavar="DIR", help="where law.json and the figures go (default: law, in the folder of RESULTS)"
    )
    command.add_argument("--method", metavar="M", help="fit this method, where the results hold several")
    command.add_argument(
        "--filter",
        choices=("predicted", "tobit", "paper"),
        default="predicted",
        help="saturated cells are dropped whole, by predicted loss (default), kept as bounds of ΔL (tobit), or dropped "
        "run by run as in the paper",
    )
    command.add_argument(
        "--loss",
        choices=("squared", "huber"),
        default="squared",
        help="huber keeps a few badly trained runs from bending the law (default: squared)",
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Fits and draws; returns the JSON result and the words for a person."""
    from memlaw_jax.analysis import fit_and_draw
    from memlaw_jax.paths import as_path, folder_of

    out = as_path(args.out) if args.out else folder_of(args.results[0]) / "law"
    law, written, words = fit_and_draw(args.results, out, filter=args.filter, method=args.method, loss=args.loss)
    return law_json(law) | {"out": str(out), "files": [str(path) for path in written]}, "\n".join(
        [words, "", "Written:", *[f"  {path}" for path in written]]
    )


def law_json(law: Any) -> dict[str, Any]:
    """The numbers of a law that a machine asks for, each with its 95 % interval."""
    names = ("alpha", "beta", "b", "c_ref")
    values = {name: getattr(law, name) for name in names} | {"r2": law.r2, "rmse": law.rmse, "cells": len(law.used)}
    return values | {"intervals": {name: list(law.interval(name)) for name in names}}
