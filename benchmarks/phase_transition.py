"""The transition at p = ½: the paper's Figure 3 and its ρ = 0.908. Is a token above ½ ever missed?

Repeats: per-position probability grids; the first token at or below ½ against the first failure of decoding; runs whose
mean loss is low and that recall nothing. SFT on a phone book, on held-out text and on random tokens, from ranks that
fail to ranks that recall, decoded greedily. At the embedded scale in three arithmetics: float32 (three seeds); bfloat16
in training, verification and decoding (one); and the float32 adapters decoded on the bfloat16 base, p being float32's,
as when an adapter is served in less precision than it was trained in.
Hardware: `embedded`: any CPU; the results in the repository are from 2 cores of an AMD EPYC. `paper`: the TPUs and GPUs
of `tpu_configs/`, bfloat16: 14 ranks up to 128 × 11 lengths up to 7000 random tokens, 154 runs where the paper has 155.
Time: `embedded` about 20 minutes of one core; `paper`: see --dry-run.
Expected: no token above ½ is missed. On the embedded base many tokens below ½ are right all the same, so that ρ is
lower than the paper's.
Command:

    python benchmarks/phase_transition.py                                              # laptop
    python benchmarks/phase_transition.py --scale paper --model DIR --hardware h100-1 --out runs/phase       # GPU
    python benchmarks/phase_transition.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/phase                                     # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/phase_transition.py --scale paper --model DIR --hardware v5e-16 --dry-run

OUT gets `table.md`, `result.json`, `p_grid_*` (Figure 3), `microscope_float32/` and `microscope_bfloat16/` with every
number and figure, and float32/phonebook, … with the records. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common.command import Benchmark
from common.given import Given, Part
from common.numbers import paper
from common.phase import above_row, claims, rows, serve
from common.table import Report, Row, scale_rows

from memlaw_jax.analysis import describe_microscope, draw_microscope, microscope, read_frame, read_tokens
from memlaw_jax.analysis.figures import draw_probability_grid, save
from memlaw_jax.analysis.files import folder, write
from memlaw_jax.paths import read_if_there

TASKS = {
    "phonebook": [],
    # Text is easy: only the smallest ranks fail.
    "text": [
        "task={kind: long_context, ratio: 0.0}",
        "ranks=[1,2,3,4,6,8,12,16]",
        "lengths=[96,192]",
        "optim.batch_size=null",
    ],
    "random": ["task={kind: long_context, ratio: 1.0}", "lengths=[64,128,192]", "optim.batch_size=null"],
}
DTYPES = {"float32": [], "bfloat16": ["seeds=[0]"]}
TINY = ["lengths=[12]", "ranks=[1,4]", "seeds=[0]", "optim.steps=20", "lanes=2"]
PAPER_RANKS = 128  # the largest
SERVED = "served_in_bfloat16.json"


def parts(given: Given) -> list[Part]:
    """A sweep an arithmetic and task; at paper scale one."""
    if given.scale == "paper":
        said = paper()["protocol"]["long_context"]
        ranks = [rank for rank in said["ranks"] if rank <= PAPER_RANKS]
        changes = [f"ranks={ranks}", f"lengths={said['table_2_lengths']}", "task.ratio=1.0", "decode=true"]
        return [Part(folder="bfloat16/random", config=given.paper_sweep("long_context", changes))]
    if given.scale == "tiny":
        return [Part(folder="float32/random", config=given.sweep("phase_transition", [*TASKS["random"], *TINY]))]
    return [
        Part(
            folder=f"{dtype}/{task}",
            config=given.sweep("phase_transition", [f"dtype={dtype}", *seeds, *kind]),
        )
        for dtype, seeds in DTYPES.items()
        for task, kind in TASKS.items()
    ]


def report(given: Given, parts: Sequence[Part]) -> Report:
    """The microscope of each arithmetic, Figure 3 of the first, and the adapters of float32 in bfloat16."""
    names = [part.folder for part in parts]
    dtypes = list(dict.fromkeys(name.partition("/")[0] for name in names))
    looks, written = {}, []
    for dtype in dtypes:
        mine = [name for name in names if name.startswith(dtype)]
        tokens, place = read_tokens([given.out / name for name in mine]), given.out / f"microscope_{dtype}"
        looks[dtype] = replace(microscope(tokens), source=tuple(mine))
        written += draw_microscope(tokens, place, found=looks[dtype])
        written.append(write(place / "words.txt", describe_microscope(looks[dtype]) + "\n"))
    for name in names:
        if name.startswith(dtypes[0]):
            grid = draw_probability_grid(read_tokens(given.out / name), "sft")
            written += save(grid, given.out, f"p_grid_{name.partition('/')[2]}")
    made = scale_rows(read_frame([given.out / name for name in names]), _scale(given))
    for dtype, found in looks.items():
        made += rows(dtype, found)
    served, words = _served(given, parts)
    made += [_served_row(task, found) for task, found in served.items()]
    return Report(
        rows=made,
        claims=claims(looks, served),
        files=written,
        words=words,
        details={"served": served} if served else {},
    )


def _served(given: Given, parts: Sequence[Part]) -> tuple[Mapping[str, Any], list[str]]:
    """The float32 adapters of each task on the bfloat16 base; with --report-only what an earlier run found."""
    mine = [part for part in parts if part.folder.startswith("float32/")]
    path = given.out / SERVED
    if not given.args.report_only:
        found = {part.folder.partition("/")[2]: serve(part.config, given.out / part.folder) for part in mine}
        if found:
            write(folder(given.out) / SERVED, json.dumps(found, indent=1) + "\n")
        return found, []
    data = read_if_there(path)
    if data is not None:
        return json.loads(data), []
    return {}, [f"There is no {SERVED}, so nothing is said of float32 adapters on the bfloat16 base."] if mine else []


def _served_row(task: str, found: Mapping[str, Any]) -> Row:
    return above_row(f"float32 adapters on the bfloat16 base, {task}: missed", found["missed_above"], found["above"])


def _scale(given: Given) -> dict[str, str]:
    said = paper()["claims"]["phase_transition"]
    steps = str(paper()["protocol"]["long_context"]["steps"])
    return {
        "model": given.model,
        "steps": steps,
        "seeds": f"{paper()['protocol']['seed']} ({said['runs']} runs)",
    }


BENCHMARK = Benchmark(name="phase_transition", doc=__doc__, parts=parts, report=report)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
