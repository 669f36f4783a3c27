"""Memory and generalisation of f(x, y) = 3x + 5y + 7 (the paper's Table 3), by SFT and MemFT, ranks 1 to 16.

Each adapter is trained on 500 pairs; memory is the share of these whose value greedy decoding gives back, and
generalisation that of 200 pairs never trained on. Three seeds: each draws its own pairs, adapter and order.
Hardware: any CPU; the results in the repository are from 2 cores of an Intel Xeon.
Time: about 12 minutes.
Expected: memory rises to 100 % with rank, generalisation stays far below it, on this base of 5 M parameters near the
share of answers that a guess of the right size hits. The paper's Qwen3-8B: see `PAPER`.
Command:

    python benchmarks/linear_rule.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from memlaw_jax.analysis.figures import save
from memlaw_jax.analysis.figures.rule import draw_rule
from memlaw_jax.models import load_base
from memlaw_jax.tasks import LinearRule
from memlaw_jax.training import OptimConfig, SweepConfig, run_sweep
from memlaw_jax.training.logging import Log

RESULTS = Path(__file__).parent / "results" / "linear_rule"
# Table 3, Qwen3-8B: rank, then memory and generalisation in per cent, by SFT and by MemFT.
PAPER = {1: (83, 19, 95, 34), 2: (100, 38, 97, 47), 4: (99, 46, 100, 53), 8: (100, 39, 99, 49), 16: (100, 41, 100, 54)}


def main() -> None:
    """Trains (or goes on), prints the table and writes it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=RESULTS)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--pairs", type=int, default=500)
    args = arguments.parse_args()
    base = load_base("embedded")
    records = []
    for seed in args.seeds:
        config = SweepConfig(
            task=LinearRule(seed=seed, pairs=args.pairs),
            ranks=tuple(args.ranks),
            methods=("sft", "memft-ot", "memft-sw"),
            seeds=(seed,),
            optim=OptimConfig(steps=args.steps, batch_size=25, learning_rate=0.01),
            lanes=8,
        )
        out = args.out / f"seed{seed}"
        records += run_sweep(base, config, out, Log(out)).records
    frame = pd.DataFrame(records)
    frame["memory"] = frame["exact_match"]
    frame["generalisation"] = [found["exact_match"] for found in frame["heldout"]]
    text = table(frame)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(text + "\n")
    (args.out / "linear_rule.json").write_text(json.dumps(numbers(frame), indent=1) + "\n")
    for path in save(draw_rule(frame), args.out, "linear_rule"):
        print(path)


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
