"""`memlaw compare`: two result sets side by side."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "compare"
HELP = "Compare two result sets: matched cells, differences with intervals, both laws."
EXAMPLE = """examples:
  memlaw compare runs/ours runs/torch
  memlaw compare runs/both runs/both --method sft --method-b memft-ot --out runs/methods
  memlaw compare runs/ours ../ParametricMemoryLaw/generation/pb --method sft

A and B are anything that `memlaw fit` reads: a folder with results.jsonl, a CSV or Parquet file, or the output tree of
the paper's PyTorch release. Cells meet where rank, length and method agree; where each side has one method, on rank and
length. Every difference is B − A, in nats per answer token."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("a", metavar="A", help="results, taken as the reference")
    command.add_argument("b", metavar="B", help="results to set beside them")
    command.add_argument("--out", metavar="DIR", help="where compare.* go (default: A/compare)")
    command.add_argument("--method", metavar="M", help="take this method only (of B too, where B has it)")
    command.add_argument("--method-b", metavar="M", help="take this method of B")
    command.add_argument(
        "--filter",
        choices=("predicted", "paper"),
        default="predicted",
        help="how saturated cells are left out of the laws, as in `memlaw fit`",
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Compares, writes and draws; returns the JSON result and the words for a person."""
    from memlaw_jax.analysis import compare_and_draw
    from memlaw_jax.cli.fit import law_json
    from memlaw_jax.paths import as_path, folder_of

    out = as_path(args.out) if args.out else folder_of(args.a) / "compare"
    found, written, words = compare_and_draw(
        args.a, args.b, out, method=args.method, method_b=args.method_b, filter=args.filter
    )
    content = found.to_dict()
    laws = [
        {name: pair[name] for name in ("over", "method_a", "method_b", "differences", "why")}
        | {name: law_json(law) if law else None for name, law in (("a", fitted.a), ("b", fitted.b))}
        for pair, fitted in zip(content["laws"], found.laws, strict=True)
    ]
    result = {name: content[name] for name in ("a", "b", "verdict", "overall", "notes", "only_a", "only_b")}
    result |= {"cells": len(found.cells), "laws": laws, "out": str(out), "files": [str(path) for path in written]}
    return result, "\n".join([words, "", "Written:", *[f"  {path}" for path in written]])
