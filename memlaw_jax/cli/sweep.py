"""`memlaw sweep`: run or resume a grid."""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Any

from memlaw_jax.cli import processes

NAME = "sweep"
HELP = "Run a grid of adapters (rank × length × method × seed), or go on with one that was stopped."
EXAMPLE = """examples:
  memlaw sweep benchmarks/configs/phonebook.yaml --out runs/phonebook
  memlaw sweep my.yaml ranks=[1,2,4] optim.steps=1000

The same command again goes on where the last one stopped. A config needs `task` and `ranks`:

  model: embedded                 # or a Hugging Face directory or hub id
  task: {kind: long_context, ratio: 1.0}
  lengths: [64, 128, 256]
  ranks: [1, 2, 4, 8]
  seeds: [0, 1, 2]
  optim: {steps: 400, learning_rate: 0.01}

To save time a grid may say `stop: recalled` (a cell ends once it recalls everything) and `skip: saturated` (cells are
left out that others show to be saturated), which only touches cells near or beyond what the law is fitted to."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("config", metavar="CONFIG.yaml", help="the grid")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="replaces a value of the config")
    command.add_argument(
        "--out", metavar="DIR", help="results folder or gs:// URL (default: the config's `out`, or runs/CONFIG)"
    )
    processes.arguments(command)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Runs the grid; returns the JSON result and the words for a person."""
    from memlaw_jax.analysis.figures import draw_sweep
    from memlaw_jax.check.flags import VARIABLES, flag_environment
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.models import load_base
    from memlaw_jax.paths import as_path
    from memlaw_jax.training.logging import Log
    from memlaw_jax.training.saturation import SKIPPED
    from memlaw_jax.training.sweep import run_sweep

    begun = time.perf_counter()
    config = read_config(args.config, args.overrides)
    for platform in VARIABLES:  # each reads its own when a process first meets its devices
        os.environ.update(flag_environment(config.xla_flags, platform, os.environ))
    speaks = processes.join(args)
    _compare_hardware(config.hardware)
    out = as_path(args.out or config.out or as_path("runs") / as_path(args.config).stem)
    placement = config.placement()  # before anything is loaded: it may be refused
    base = load_base(config.model, config.dtype, placement.mesh, config.attention)
    log = Log(out, bar=not args.json)
    results = run_sweep(base, config, out, log if speaks else None)
    if not speaks:
        return {}, ""
    seconds = round(time.perf_counter() - begun, 1)
    frame = results.frame()
    diverged = int((frame["stopped"] == "diverged").sum())
    skipped = len(results.skipped)
    result = {
        "out": str(out), "cells": len(frame), "new": log.new, "diverged": diverged, "skipped": skipped,
        "seconds": seconds,
    }  # fmt: skip
    words = [f"{len(frame)} cells finished, {log.new} of them now, in {seconds:.0f} s."]
    if skipped:
        words.append(f"{skipped} cells were not run, because others show that they would be saturated: {out / SKIPPED}")
    if diverged:
        words.append(
            f"{diverged} cells diverged (a loss that is not finite or has no gradient); try a smaller learning rate."
        )
    learned = diverged < len(frame)
    words += [
        *([_table(frame)] if learned else []),
        f"Records: {out / 'results.jsonl'}",
        f"Curves:  {out / 'tensorboard'} (for TensorBoard)",
    ]
    if learned:
        words += [f"Figure:  {path}" for path in draw_sweep(frame, out) if path.suffix == ".png"]
    if frame["rank"].nunique() > 1 and frame["length"].nunique() > 1:  # a law needs both
        words.append(f"Next:    memlaw report {out}")
    return result, "\n".join(words)


def _compare_hardware(name: str | None) -> None:
    """Warns where a config is run on other hardware than it is meant and was checked for."""
    if name is None:
        return
    import jax

    from memlaw_jax.check.hardware import find_hardware

    hardware, device = find_hardware(name), jax.devices()[0]
    if (device.platform, jax.device_count()) != (hardware.chip.platform, hardware.chips):
        warnings.warn(
            f"the config is for {name}, {hardware.chips} × {hardware.chip.name}; here are {jax.device_count()} × "
            f"{device.device_kind}: lanes and mesh may not suit them.",
            stacklevel=2,
        )


def _table(frame: Any) -> str:
    """Final loss and exact match by rank and length, mean over seeds."""
    axes = [name for name in ("method", "learning_rate") if frame[name].nunique() > 1]
    mean = frame.pivot_table(
        index=[*axes, "rank"], columns="length", values=["loss_final", "exact_match"], aggfunc="mean"
    )
    parts = []
    for name, title in (("loss_final", "final loss, nats per answer token"), ("exact_match", "exact match")):
        parts.append(f"\n{title} (rows: rank, columns: answer tokens)\n{mean[name].to_string(float_format='%.3f')}\n")
    return "".join(parts)
