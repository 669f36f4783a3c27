"""Memory and generalisation of the rule f(x, y) = 3x + 5y + 7, by SFT and MemFT: the paper's Table 3.

Repeats: ranks 1 to 16; memory is the share of the training pairs whose value is recalled word for word, generalisation
that of 200 unseen pairs; does MemFT remember more, and generalise better? Each seed draws its own pairs, adapter and
order. The embedded base is 1600 times smaller than the paper's, and its bypass of one MLP does not hold the paper's 500
pairs: `bypass` has 100, with x and y below 32. `all_linear` has the 500 and an adapter on every linear layer, so that
the whole model can change.
Hardware: `embedded`: any CPU; the results in the repository are from one core of an AMD EPYC. `paper`: the TPUs and
GPUs of `tpu_configs/`, bfloat16, the bypass alone. The paper does not say how it trained here: the 200 epochs, and
their batches of 4 (Llama: 10), are those of its shortest phone books.
Time: `embedded` about 25 minutes of one core; `paper`: see --dry-run.
Expected: memory rises from 1 to about 80 % with rank, a little sooner with MemFT; the bypass generalises no better than
a constant answer, adapters on all layers give a tenth of the unseen values, whatever the method. The paper's model
recalls nearly all pairs at rank 1 and half of the unseen ones.
Command:

    python benchmarks/linear_rule.py                                                   # laptop
    python benchmarks/linear_rule.py --scale paper --model DIR --hardware h100-1 --out runs/qwen_rule        # GPU
    python benchmarks/linear_rule.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/qwen_rule                                 # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/linear_rule.py --scale paper --model DIR --hardware v5e-16 --dry-run

At paper scale there is the paper's one seed, and so no interval; `seeds=[42,43,44]` gives one, over adapters and
orders of the same pairs. OUT gets `table.md`, `result.json`, the figure, and a folder an adapter and seed with the
records. The same command goes on where it was stopped.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common.command import Benchmark
from common.given import Given, Part
from common.numbers import NAMES, mean_interval, paper, percent
from common.table import Claim, Report, Row, Verdict, scale_rows, verdict

from memlaw_jax.analysis import read_frame
from memlaw_jax.analysis.figures import draw_rule, save

ADAPTERS = {"bypass": "linear_rule", "all_linear": "linear_rule_all"}
TITLES = {"bypass": "bypass", "all_linear": "all linear layers"}
SEEDS = (0, 1, 2)
TINY = ["task.pairs=4", "task.heldout=4", "ranks=[1]", "methods=[sft,memft-ot]", "optim={steps: 4}"]
CLAIMS = {"memory": "MemFT remembers more than SFT", "generalisation": "MemFT generalises better than SFT"}
CLAIMED = "memft-ot"  # the paper does not say which MemFT its Table 3 has


def parts(given: Given) -> list[Part]:
    """A sweep an adapter and seed, for the pairs are the seed's; at paper scale one."""
    if given.scale == "paper":
        return [Part(folder="bypass", config=given.paper_sweep("phonebook", _as_paper(given)))]
    made = []
    for folder, config in ADAPTERS.items():
        for seed in SEEDS[:1] if given.scale == "tiny" else SEEDS:
            changes = [f"task.seed={seed}", f"seeds=[{seed}]", *(TINY if given.scale == "tiny" else [])]
            made.append(Part(folder=f"{folder}/seed{seed}", config=given.sweep(config, changes)))
    return made


def _as_paper(given: Given) -> list[str]:
    """What differs from the phone book; `largest` is the task's own, of which the paper says nothing."""
    said, book = paper()["table_3"], paper()["protocol"]["phonebook"]
    return [
        f"task={{kind: linear_rule, pairs: {said['pairs']}}}",
        "lengths=[null]",
        f"ranks={said['ranks']}",
        "methods=[sft,memft-ot]",
        f"optim={{epochs: {book['epochs']}, batch_size: {book['batch_size'][given.family][0]['size']}}}",
    ]


def report(given: Given, parts: Sequence[Part]) -> Report:
    """Both shares by adapter, rank and method, and by how much MemFT is ahead of SFT."""
    frames = [measured(read_frame(given.out / part.folder)).assign(adapter=part.folder.split("/")[0]) for part in parts]
    frame = pd.concat(frames, ignore_index=True)
    chance = {part.folder.split("/")[0]: constant_answer(part.config.made_task()) for part in parts}
    rows = [
        *scale_rows(frame, _scale()),
        Row(what="adapter", paper=TITLES["bypass"], ours=", ".join(TITLES[adapter] for adapter in chance)),
        Row(what="training pairs", paper=str(paper()["table_3"]["pairs"]), ours=_pairs(frame)),
        Row(what="right by the best constant answer, %", ours=", ".join(percent(value) for value in chance.values())),
    ]
    torch = given.pytorch()
    claims = []
    for adapter, mine in frame.groupby("adapter", sort=False):
        rows += rule_rows(str(adapter), mine, _torch(torch, str(adapter)))
        claims += rule_claims(str(adapter), mine, chance[str(adapter)])
    return Report(rows=rows, claims=claims, files=save(draw_rule(frame), given.out, "rule"))


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs with the columns `memory` and `generalisation`, shares of 1."""
    unseen = [found["exact_match"] for found in frame["heldout"]]
    return frame.assign(memory=frame["exact_match"], generalisation=unseen)


def constant_answer(task: Any) -> float:
    """The share of all pairs that have a `LinearRule`'s most frequent value: what generalisation needs no rule for."""
    axis = range(task.largest + 1)
    values = Counter(task.a * x + task.b * y + task.c for x, y in itertools.product(axis, axis))
    return max(values.values()) / values.total()


def rule_rows(adapter: str, frame: pd.DataFrame, torch: pd.DataFrame | None) -> list[Row]:
    """Memory / generalisation in per cent, mean ± half of the 95 % interval over seeds, a row a rank and method."""
    known = paper()["table_3"]
    return [
        Row(
            section=f"memory / generalisation, %: {TITLES[adapter]}",
            what=f"rank {rank}, {method}",
            paper=_known(known, int(rank), str(method)),
            ours=_shares(frame, int(rank), str(method)),
            pytorch="" if torch is None else _shares(torch, int(rank), str(method)),
        )
        for method in frame["method"].unique()
        for rank in sorted(frame["rank"].unique())
    ]


def _known(known: Any, rank: int, method: str) -> str:
    of = known.get({CLAIMED: "memft"}.get(method, method))
    if of is None or rank not in known["ranks"]:
        return ""
    at = known["ranks"].index(rank)
    return f"{of['memory'][at]} / {of['generalisation'][at]}"


def _shares(frame: pd.DataFrame, rank: int, method: str) -> str:
    cell = frame[(frame["rank"] == rank) & (frame["method"] == method)]
    return " / ".join(percent(*mean_interval(cell[name])) for name in CLAIMS) if len(cell) else ""


def rule_claims(adapter: str, frame: pd.DataFrame, chance: float) -> list[Claim]:
    """The paired lead of MemFT over SFT, its mean over ranks a seed, with a 95 % t interval over seeds.

    Where neither method is above a constant answer there is nothing to tell.
    """
    claims = []
    for name, words in CLAIMS.items():
        seeds = frame.pivot_table(index=["dataset", "seed", "rank"], columns="method", values=name)
        if not {"sft", CLAIMED} <= set(seeds.columns):
            return []
        seeds = seeds[["sft", CLAIMED]].dropna().groupby(["dataset", "seed"]).mean()
        means = {method: mean_interval(seeds[method]) for method in seeds.columns}
        lead, half = mean_interval(seeds[CLAIMED] - seeds["sft"])
        shown = ", ".join(f"{method} {percent(*mean)} %" for method, mean in means.items())
        told = f"Mean over ranks, {len(seeds)} seeds (± 95 %): {shown}; paired lead {percent(lead, half)} points."
        found: Verdict = "undecided"
        if half is None:
            told += " One seed, or equal ones, have no interval."
        elif all(mean - (wide or 0.0) <= chance for mean, wide in means.values()):
            told += f" Neither is above a constant answer, {percent(chance)} %."
        else:
            found = verdict(lead - half, lead + half, 0.0)
        claims.append(Claim(claim=f"{words} ({TITLES[adapter]})", verdict=found, evidence=told))
    return claims


def _torch(frame: pd.DataFrame | None, adapter: str) -> pd.DataFrame | None:
    """The PyTorch run's cells with this adapter, if they measure what is compared."""
    if frame is None or not {"exact_match", "heldout"} <= set(frame.columns):
        return None
    frame = frame.assign(method=frame["method"].fillna("sft") if "method" in frame.columns else "sft")
    if "targets" in frame.columns:
        return measured(frame[[(list(targets) == ["mlp"]) == (adapter == "bypass") for targets in frame["targets"]]])
    return measured(frame) if adapter == "bypass" else None


def _pairs(frame: pd.DataFrame) -> str:
    return ", ".join(str(count) for count in frame["samples"].unique())


def _scale() -> dict[str, str]:
    return {
        "model": NAMES[paper()["table_3"]["model"]],
        "ranks": ", ".join(map(str, paper()["table_3"]["ranks"])),
    }


BENCHMARK = Benchmark(name="linear_rule", doc=__doc__, parts=parts, report=report)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
