"""The law on one long text, from all text (r0) to all random tokens (r100): the paper's Table 1 and Figure 2.

Repeats: ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b for each of the paper's six ratios of random tokens, and through all of them
combined; R² and MAPE as in Table 1, C, α, β and b of r100 as in Figure 2, with the heat map of token accuracy. The text
is the embedded base's own held-out text: of its domain, never trained on.
Hardware: `embedded`: any CPU; the results in the repository are from 2 cores of an AMD EPYC. `paper`: the TPUs and GPUs
of `tpu_configs/`, bfloat16.
Time: `embedded` 80 minutes of one core, 12 a ratio (`--ratios 1` for one of them); `paper`: see --dry-run (33 hours on
a v5e-16, predicted).
Expected: R² of 0.97 at r0 and 0.985 to 0.996 at the others, α about 0.45 and β about 0.35; one law for all ratios
combined is far worse on the embedded base (0.76), where random tokens start at 12 nats and text at 2.5.
Command:

    python benchmarks/law_long_context.py                                              # laptop
    python benchmarks/law_long_context.py --scale paper --model DIR --hardware h100-1 --out runs/qwen        # GPU
    python benchmarks/law_long_context.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/qwen                                      # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/law_long_context.py --scale paper --model DIR --hardware v5e-16 --dry-run

At paper scale `task.text=FILE` names another text of at least 10,000 tokens. OUT gets `table.md`, `result.json`, the
figures, and r0, r20, … with the records and each ratio's own law. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from etils import epath

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common.command import Benchmark
from common.given import TEXT, Given, Part
from common.law import law_claims, law_files, law_rows, shared_claim, shared_rows
from common.numbers import paper
from common.table import Claim, Report, scale_rows

from memlaw_jax.analysis import Law, fit_law, pool, read_frame
from memlaw_jax.analysis.figures import draw_density, draw_exponents, save
from memlaw_jax.errors import UserError

# Text is easy, so the smallest ratio needs a longer one to leave as many cells unsaturated.
LONGER = "lengths=[32,64,128,256,384,768]"
TINY = ["lengths=[12,24,48]", "ranks=[1,2,4]", "seeds=[0]", "optim.steps=20", "decode=false"]


def parts(given: Given) -> list[Part]:
    """A sweep a ratio."""
    made = []
    ratios = [0.0, 1.0] if given.scale == "tiny" else paper()["protocol"]["long_context"]["ratios"]
    if any(one.startswith(("task.ratio=", "task=")) for one in given.args.overrides):
        raise UserError("the ratio of a sweep is the benchmark's own; choose with --ratios instead of task.ratio.")
    for ratio in dict.fromkeys(round(ratio, 2) for ratio in given.args.ratios or ratios):
        changes = [f"task.ratio={ratio}"]
        if given.scale == "paper":
            text = [f"task.text={TEXT}"] if ratio < 1 else []
            config = given.paper_sweep("long_context", ["decode=true", *changes, *text])
        else:
            small = TINY if given.scale == "tiny" else [LONGER] if ratio == 0 else []
            config = given.sweep("law_long_context", [*small, *changes])
        made.append(Part(folder=f"r{round(100 * ratio)}", config=config))
    return made


def report(given: Given, parts: Sequence[Part]) -> Report:
    """A law a ratio, one for all, and the paper's."""
    laws: dict[str, Law] = {}
    frames: list[pd.DataFrame] = []
    written: list[epath.Path] = []
    untold: list[str] = []
    for part in parts:
        frame = read_frame(given.out / part.folder)
        frames.append(frame.assign(ratio=part.folder))
        try:
            law = laws[part.folder] = fit_law(frame)
            written += law_files(frame, law, given.out / part.folder, "token_accuracy_free")
        except UserError as error:
            untold.append(f"{part.folder} has no law: {error}.")
    torch = torch_laws(given, untold)
    table = _paper_by_data(given)
    rows = scale_rows(pd.concat(frames, ignore_index=True), _scale(given))
    claims: list[Claim] = []
    for name, law in laws.items():
        rows += law_rows(name, {name: law}, table.get(name, {}), torch.get(name))
        claims += law_claims(name, {name: law})
    if len(laws) > 1:
        rows += law_rows("combined", laws, table["combined"], None)
        claims += law_claims("all ratios combined", laws)
        rows += shared_rows(laws)
        claims.append(shared_claim(laws))
    if laws:
        written += save(draw_density(laws), given.out, "density")
        written += save(draw_exponents(laws, pool(laws)), given.out, "exponents")
    return Report(rows=rows, claims=claims, files=written, words=untold)


def torch_laws(given: Given, untold: list[str]) -> dict[str, Law]:
    """Of the PyTorch run: a law for each ratio that its `dataset` names, r100 where it names none."""
    frame = given.pytorch()
    if frame is None:
        return {}
    named = frame["dataset"].astype(str) if "dataset" in frame.columns else pd.Series("r100", index=frame.index)
    named = named.where(named.str.fullmatch(r"r\d+"), "r100")
    found = {}
    for name, runs in frame.groupby(named):
        if "method" in runs.columns:
            runs = runs[runs["method"].fillna("sft") == "sft"]
        try:
            found[str(name)] = fit_law(runs, evidence=False)
        except UserError as error:
            untold.append(f"The PyTorch run has no law at {name}: {error}.")
    return found


def _paper_by_data(given: Given) -> dict[str, dict[str, float]]:
    """What the paper has of each ratio and of all, for its model."""
    family = given.family if given.scale == "paper" else "qwen"
    table = next(row for row in paper()["table_1"]["rows"] if row["model"] == family and "combined" in row["data"])
    figure = paper()["figure_2"] if family == paper()["figure_2"]["model"] else {}
    return {"combined": table, "r100": figure}


def _scale(given: Given) -> dict[str, str]:
    said = paper()["protocol"]["long_context"]
    return {
        "model": given.model,
        "ranks": f"{len(said['ranks'])} from {said['ranks'][0]} to {said['ranks'][-1]}",
        "answer tokens ℓ": f"{len(said['lengths'])} from {said['lengths'][0]} to {said['lengths'][-1]}",
        "steps": str(said["steps"]),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which ratios."""
    parser.add_argument(
        "--ratios", type=float, nargs="+", metavar="ρ", help="only these, to two decimals, such as 0 0.2 1"
    )


BENCHMARK = Benchmark(name="law_long_context", doc=__doc__, parts=parts, report=report, arguments=arguments)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
