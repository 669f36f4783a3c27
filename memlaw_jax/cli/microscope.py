"""`memlaw microscope`: which tokens are remembered, and which break everything after them."""

from __future__ import annotations

import argparse
import json
from typing import Any

NAME = "microscope"
HELP = "Look at single tokens of finished sweeps: the transition at p = ½, first failures, stubborn tokens."
EXAMPLE = """example:
  memlaw sweep benchmarks/configs/phonebook.yaml decode=true --out runs/phonebook
  memlaw microscope runs/phonebook

Draws p against position, the first token below ½ against the first failure (with Spearman's ρ), where failures are,
loss beside accuracy and recall against p; lists stubborn tokens; and counts tokens that were missed though above ½, of
which there can be none in float32. Sweeps with `decode: true` are checked against what greedy decoding wrote, too."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("results", metavar="RESULTS", nargs="+", help="results folders of sweeps")
    command.add_argument("--out", metavar="DIR", help="where figures and tables go (default: RESULTS/microscope)")
    command.add_argument("--threshold", type=float, default=0.5, help="the probability to look at (default: 0.5)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Looks and draws; returns the JSON result and the words for a person."""
    from memlaw_jax.analysis import look_and_draw
    from memlaw_jax.paths import as_path

    out = as_path(args.out) if args.out else as_path(args.results[0]) / "microscope"
    found, written, words = look_and_draw(args.results, out, threshold=args.threshold)
    files = [str(path) for path in written]
    return json.loads(found.to_json()) | {"out": str(out), "files": files}, "\n".join(
        [words, "", "Written:", *[f"  {path}" for path in files]]
    )
