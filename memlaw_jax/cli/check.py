"""`memlaw check`: compile a sweep's step for hardware that is not here."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

NAME = "check"
HELP = "Compile a sweep's training step for its hardware without owning it: memory a chip, collectives, verdict."
EXAMPLE = """examples:
  memlaw check tpu_configs/v5e-16_qwen3-8b_long_context.yaml
  memlaw check my.yaml hardware=v6e-8 lanes=64 --fix

The config is one of `memlaw sweep` that names its `hardware`. For TPUs libtpu compiles the real step from shapes, with
no weights and no TPU, which takes minutes for a large model; for GPUs memory is reckoned. It ends with 0 only if the
step fits. Step times are predictions."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("config", metavar="CONFIG.yaml", help="the grid, with `hardware`")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="replaces a value of the config")
    command.add_argument("--fix", action="store_true", help="look for the most lanes that fit")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Checks; returns the JSON result and the words for a person.

    Raises:
      UserError: it does not fit; the report is printed before that.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a TPU or GPU that is here is for others to use
    from memlaw_jax.check.run import check_sweep
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.errors import UserError

    config = read_config(args.config, args.overrides)
    report = check_sweep(config, fix=args.fix, tell=lambda words: print(f"memlaw: {words} …", file=sys.stderr))
    result, words = report.as_json() | {"config": args.config}, report.words()
    if report.reasons:
        print(json.dumps(result) if args.json else words, flush=True)
        lanes = result.get("largest_lanes")
        ask = "; --fix looks for a number of lanes that fits" if not (args.fix or report.step.fits) else ""
        then = f"; lanes={lanes} fits" if lanes else ask
        raise UserError(f"{args.config} does not fit {report.hardware.name}: {'; '.join(report.reasons)}{then}.")
    return result, words
