"""Memory and generalisation of f(x, y) = 3x + 5y + 7 (the paper's Table 3), by SFT and MemFT, ranks 1 to 16.

Memory is the share of the training pairs whose value greedy decoding gives back, generalisation that of 200 unseen
pairs. Three seeds: each draws its own pairs, adapter and order. The paper trains Qwen3-8B on 500 pairs; the embedded
base is 1600 times smaller, and the paper's bypass of one MLP holds no more than 117 of 500 at rank 16, so by default
there are 100 pairs with x and y below 32. `--linear` puts the adapter on every linear layer instead, with 500 pairs:
there the whole model can change, and some of the rule is learned.
Hardware: any CPU; the results in the repository are from 2 cores of an Intel Xeon.
Time: about 10 minutes; with `--linear --seeds 0 --ranks 1 4 16` about as long.
Expected: memory rises from 1 to about 90 % with rank, a little sooner with MemFT; generalisation stays at 1 %
with the bypass. The paper's numbers stand beside ours.
Command:

    python benchmarks/linear_rule.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from scipy import stats

from memlaw_jax.analysis.figures import save
from memlaw_jax.analysis.figures.rule import draw_rule
from memlaw_jax.models import LoraConfig, load_base
from memlaw_jax.results import commit, now, versions
from memlaw_jax.tasks import LinearRule
from memlaw_jax.training import OptimConfig, SweepConfig, run_sweep
from memlaw_jax.training.logging import Log

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Table 3, Qwen3-8B: rank, then memory and generalisation in per cent, by SFT and by MemFT.
PAPER = {1: (83, 19, 95, 34), 2: (100, 38, 97, 47), 4: (99, 46, 100, 53), 8: (100, 39, 99, 49), 16: (100, 41, 100, 54)}


def main() -> None:
    """Trains (or goes on), prints the table and writes it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=Path("runs/linear_rule"))
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    arguments.add_argument("--linear", action="store_true", help="adapters on all linear layers, 500 pairs")
    args = arguments.parse_args()
    place = args.out / ("linear" if args.linear else "bypass")
    base = load_base("embedded")
    records = []
    for seed in args.seeds:
        config = SweepConfig(
            seeds=(seed,), ranks=tuple(args.ranks), lanes=8, **(linear if args.linear else bypass)(seed)
        )
        out = place / f"seed{seed}"
        records += run_sweep(base, config, out, Log(out)).records
    frame = pd.DataFrame(records)
    frame["memory"] = frame["exact_match"]
    frame["generalisation"] = [found["exact_match"] for found in frame["heldout"]]
    text = table(frame)
    print(text)
    told = {"command": " ".join(["python", *sys.argv]), "date": now(), "git": commit(), "versions": versions()}
    (place / "table.md").write_text(text + "\n")
    (place / "linear_rule.json").write_text(json.dumps(told | {"cells": numbers(frame)}, indent=1) + "\n")
    for path in save(draw_rule(frame), epath.Path(place), "linear_rule"):
        print(path)


def bypass(seed: int) -> dict[str, Any]:
    """The paper's adapter, on as many pairs as it can hold here."""
    return {
        "task": LinearRule(seed=seed, pairs=100, largest=31),
        "methods": ("sft", "memft-ot", "memft-sw"),
        "optim": OptimConfig(steps=600, batch_size=25, learning_rate=0.01),
    }


def linear(seed: int) -> dict[str, Any]:
    """Every linear layer, on the paper's number of pairs."""
    return {
        "task": LinearRule(seed=seed, largest=31),
        "methods": ("sft", "memft-ot"),
        "lora": LoraConfig(targets=LINEAR, init="peft"),
        "optim": OptimConfig(steps=200, batch_size=50, learning_rate=0.003),
    }


def numbers(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean and 95 % t interval over seeds, by rank and method."""
    rows = []
    for (rank, method), cell in frame.groupby(["rank", "method"]):
        row: dict[str, Any] = {"rank": int(rank), "method": method, "seeds": len(cell)}
        for name in ("memory", "generalisation"):
            values = cell[name].to_numpy()
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
            row[name] = float(values.mean())
            row[f"{name}_half_width"] = None if np.isnan(half) else float(half)
        rows.append(row)
    return rows


def table(frame: pd.DataFrame) -> str:
    """Ours beside the paper's, in per cent: memory / generalisation."""
    methods = list(frame["method"].unique())
    head = ["rank", *methods, "paper, SFT", "paper, MemFT"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    cells = {(row["rank"], row["method"]): row for row in numbers(frame)}
    for rank in sorted(frame["rank"].unique()):
        row = [str(rank), *[_cell(cells[rank, method]) for method in methods]]
        paper = PAPER.get(int(rank))
        row += [f"{paper[0]} / {paper[1]}", f"{paper[2]} / {paper[3]}"] if paper else ["", ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    parts = []
    for name in ("memory", "generalisation"):
        half = row[f"{name}_half_width"]
        parts.append(f"{100 * row[name]:.1f}" + ("" if half is None else f" ± {100 * half:.1f}"))
    return " / ".join(parts)


if __name__ == "__main__":
    main()
