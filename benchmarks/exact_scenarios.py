"""Exact memory of eight scenarios, from credentials to a licence key: the paper's Table 4.

Repeats: the smallest rank at which an adapter recalls every record of a file word for word, when decoded greedily. The
paper shows one example a scenario; ours are the files of `examples/exact_memory/`, three to five records each, trained
by MemFT-OT. Beside them a page of text, `examples/page.txt`, which is no scenario of the paper's.
Hardware: `embedded`: any CPU; the results in the repository are from one core of an AMD EPYC. `paper`: the TPUs and
GPUs of `tpu_configs/`, bfloat16, all records in a step, 400 steps (the paper does not say).
Time: `embedded` about 20 minutes of one core; `paper`: see --dry-run.
Expected: every scenario is recalled word for word at rank 8 or below, the page at rank 32.
Command:

    python benchmarks/exact_scenarios.py                                               # laptop
    python benchmarks/exact_scenarios.py --scale paper --model DIR --hardware h100-1 --out runs/qwen_exact   # GPU
    python benchmarks/exact_scenarios.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/qwen_exact                                # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/exact_scenarios.py --scale paper --model DIR --hardware v5e-16 --dry-run

A file of your own is remembered by `memlaw remember`. OUT gets `table.md`, `result.json`, the figure, and a folder a
file with the records. The same command goes on where it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common.command import Benchmark
from common.given import Given, Part
from common.numbers import HERE, number, paper
from common.table import Claim, Report, Row, scale_rows

from memlaw_jax.analysis import read_frame
from memlaw_jax.analysis.figures import draw_scenarios, save

EXAMPLES = HERE.parent / "examples"
PAGE = "page"
SMALL = 16  # the largest rank that counts as a small adapter, also the largest that the scenarios are given
RANKS = [1, 2, 4, 8, 16, 32, 64]
TINY = ["ranks=[1,2]", "seeds=[0]", "optim={steps: 10}", "lanes=2"]


def parts(given: Given) -> list[Part]:
    """A sweep a file."""
    made = []
    for name in paper()["table_4"]["scenarios"][: 1 if given.scale == "tiny" else None]:
        made.append(_part(given, name, EXAMPLES / "exact_memory" / f"{name}.jsonl", []))
    if given.scale != "tiny":
        made.append(_part(given, PAGE, EXAMPLES / "page.txt", ["ranks=[16,32]"]))
    return made


def _part(given: Given, name: str, path: Path, changes: list[str]) -> Part:
    if given.scale == "paper":
        task = f"task={{kind: records, path: '{path}'}}"
        more = [f"ranks={RANKS}", "lengths=[null]", "methods=[memft-ot]", "optim={steps: 400}"]
        return Part(folder=name, config=given.paper_sweep("phonebook", [task, *more, "decode=true"]))
    changes = [f"task.path={path}", *changes, *(TINY if given.scale == "tiny" else [])]
    return Part(folder=name, config=given.sweep("exact_scenarios", changes))


def report(given: Given, parts: Sequence[Part]) -> Report:
    """The smallest rank that recalls each file, seed by seed, and how sure it is there."""
    frame = pd.concat(
        [read_frame(given.out / part.folder).assign(scenario=part.folder) for part in parts], ignore_index=True
    )
    torch = given.pytorch()
    rows = scale_rows(frame, {"model": given.model})
    for name, mine in frame.groupby("scenario", sort=False):
        rows += scenario_rows(str(name), mine, None if torch is None else _of(torch, str(name)))
    return Report(rows=rows, claims=[scenarios_claim(frame)], files=save(draw_scenarios(frame), given.out, "scenarios"))


def whole(frame: pd.DataFrame) -> pd.Series:
    """Whether a run recalls all: every record by its arg-maxes, and every token where it was decoded greedily."""
    decoded = frame["token_accuracy_free"] == 1 if "token_accuracy_free" in frame.columns else True
    return (frame["exact_match"] == 1) & decoded


def smallest(frame: pd.DataFrame) -> pd.Series:
    """The smallest rank of each seed's runs that recalls all; infinite where none does."""
    return frame["rank"].where(whole(frame), np.inf).groupby(frame["seed"]).min()


def scenario_rows(name: str, frame: pd.DataFrame, torch: pd.DataFrame | None) -> list[Row]:
    """Two rows: the smallest rank, its median over seeds and range, and the least p of a token at each seed's rank."""
    known = "one example" if name in paper()["table_4"]["scenarios"] else ""
    head = f"{name}, {frame['samples'].iloc[0]} records, {frame['length'].iloc[0]} tokens"
    return [
        Row(
            what=f"{head}: smallest rank that recalls all",
            paper=known and f"recalled ({known})",
            ours=_rank(frame),
            pytorch="" if torch is None or torch.empty else _rank(torch),
        ),
        Row(
            what=f"{name}: least p of a token there",
            ours=_least(frame),
            pytorch="" if torch is None or torch.empty else _least(torch),
        ),
    ]


def _rank(frame: pd.DataFrame) -> str:
    ranks, tried = smallest(frame), f"none up to {frame['rank'].max()}"
    median, low, high = (f"{x:g}" if np.isfinite(x) else tried for x in (ranks.median(), ranks.min(), ranks.max()))
    return median if low == high else f"{median} ({low} to {high})"


def _least(frame: pd.DataFrame) -> str:
    if "p_min" not in frame.columns:
        return ""
    there = frame[frame["rank"] == frame["seed"].map(smallest(frame))]
    return number(there["p_min"].min(), digits=2) if len(there) else ""


def scenarios_claim(frame: pd.DataFrame) -> Claim:
    """Whether each of the paper's scenarios has a rank, up to `SMALL`, at which every seed's adapter recalls all."""
    frame = frame[frame["scenario"] != PAGE]
    small = frame[frame["rank"] <= SMALL]
    every = small.assign(whole=whole(small)).groupby(["scenario", "rank"], sort=False)["whole"].all()
    ranks = {name: min(found.index.get_level_values("rank")) for name, found in every[every].groupby("scenario")}
    failed = [name for name in frame["scenario"].unique() if name not in ranks]
    seeds = frame["seed"].nunique()
    told = (
        f"{len(ranks)} of {len(ranks) + len(failed)} files are recalled whole by {seeds} of {seeds} seeds at one rank"
    )
    told += f", at the latest at rank {max(ranks.values())}." if ranks else "."
    return Claim(
        claim=f"every scenario is recalled word for word by a small adapter (rank {SMALL} or below)",
        verdict="undecided" if frame["rank"].max() < SMALL and failed else "does not hold" if failed else "holds",
        evidence=told + (f" Not recalled: {', '.join(failed)}." if failed else ""),
    )


def _of(torch: pd.DataFrame, name: str) -> pd.DataFrame:
    """The PyTorch run's cells whose `dataset` is this file's name."""
    wanted = {"dataset", "seed", "exact_match"} <= set(torch.columns)
    return torch[torch["dataset"].astype(str) == name] if wanted else torch.iloc[:0]


BENCHMARK = Benchmark(name="exact_scenarios", doc=__doc__, parts=parts, report=report)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
