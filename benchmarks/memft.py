"""Does MemFT win? SFT, OT, SW and a curriculum at equal token visits, from ranks that fail to ranks that saturate.

Repeats: the paper's Table 2 in small (PAPER.md, section 6), on the embedded base: a phone book of 50 records and random
tokens (ℓ = 64 and 160), ranks 2 to 24, three seeds, each of which draws the data, the initialisation and the order of
the samples for all methods alike. A control with one seed at ranks in transition: are the leads a matter of the
learning rate (0.003, 0.01, 0.03, each method at its best), and does SFT catch up with twice the steps, at any of them?
Hardware: any; the results in the repository are from 2 cores of an Intel Xeon.
Time: about 25 minutes on them. What is finished is kept: the same command goes on where it was stopped.
Expected: from one seed, SW far ahead of SFT and OT at low ranks (phone book, rank 8: exact match 0.62 against 0.26 and
0.38; random tokens, ℓ = 160, rank 8: 0.59 of the tokens right against 0.01), OT first to recall all of ℓ = 160.
Command:

    python benchmarks/memft.py --out runs/memft

OUT gets `methods.json` (every number, with hardware, versions, commit and date), `table.md`, a figure a task, and the
records: `phonebook/seed0`, …, `long_context/seed0`, …, `control/phonebook_rates`, …
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from memlaw_jax.analysis import (
    best_rates,
    compare_methods,
    describe_methods,
    describe_rates,
    draw_methods,
    methods_table,
    read_frame,
)
from memlaw_jax.analysis.figures import save
from memlaw_jax.analysis.files import folder, write
from memlaw_jax.cli.config import read_config
from memlaw_jax.models import Base, load_base
from memlaw_jax.results import commit, now, versions
from memlaw_jax.training import run_sweep
from memlaw_jax.training.logging import Log

CONFIGS = Path(__file__).parent / "configs"
TASKS = ("phonebook", "long_context")
CONTROL = {"phonebook": ["ranks=[8,12]"], "long_context": ["ranks=[4,8,12]", "lengths=[160]"]}
RATES = "0.003,0.03"  # beside the 0.01 of the sweeps themselves
LONGER = "sft at twice the steps"
QUICK = {
    "phonebook": ["task.records=8", "ranks=[2,8]", "optim.steps=100", "optim.batch_size=4"],
    "long_context": ["lengths=[12,24]", "ranks=[1,4]", "optim.steps=60"],
}
QUICK_CONTROL = {"phonebook": ["ranks=[8]"], "long_context": ["ranks=[4]", "lengths=[24]"]}
QUICK_WORDS = "A quick run: a tiny grid that shows that the script works and nothing about MemFT."


def run(out: Path, seeds: int, quick: bool) -> None:
    """Every sweep that is not finished yet."""
    base = load_base("embedded")
    for task in TASKS:
        small = QUICK[task] if quick else []
        for seed in range(seeds):
            drawn = [f"task.seed={seed}", f"seeds=[{seed}]"]
            sweep(base, task, [*small, *drawn], out / task / f"seed{seed}")
        some = [*small, *(QUICK_CONTROL if quick else CONTROL)[task], "task.seed=0", "seeds=[0]"]
        sweep(base, task, [*some, f"learning_rates=[{RATES}]"], out / "control" / f"{task}_rates")
        steps = 2 * (read_config(config(task), small).optim.steps or 0)
        more = ["methods=[sft]", f"optim.steps={steps}", f"learning_rates=[0.01,{RATES}]"]
        sweep(base, task, [*some, *more], out / "control" / f"{task}_longer")


def sweep(base: Base, task: str, overrides: list[str], place: Path) -> None:
    """One config, run or resumed into a folder."""
    print(f"{place}: {' '.join(overrides)}", file=sys.stderr, flush=True)
    run_sweep(base, read_config(config(task), overrides), place, Log(place))


def config(task: str) -> Path:
    """The YAML of a task."""
    return CONFIGS / f"memft_{task}.yaml"


def report(out: Path, told: dict[str, Any]) -> str:
    """Writes `methods.json`, `table.md` and the figures from the records in a folder; returns the words."""
    sweeps = [place for task in TASKS for place in sorted((out / task).glob("seed*"))]
    frame = read_frame(sweeps)
    found, best = compare_methods(frame), best_rates(control(out))
    words = describe_rates(best, longer=LONGER)
    quick = [QUICK_WORDS] if told["quick"] else []
    place = folder(out)
    table = methods_table(found)
    table += "\n## Learning rate and compute, one seed\n\n" + "".join(f"- {line}\n" for line in words)
    trained = read_frame([*sweeps, *sorted((out / "control").glob("*"))])
    content = told | {"training_seconds": round(float(trained["seconds"].sum()))} | found.to_dict()
    content |= {"control": best.to_dict("records"), "control_words": words}
    written = [
        write(place / "methods.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
        write(place / "table.md", "\n\n".join([*quick, table])),
    ]
    for task in TASKS:
        written += save(draw_methods(found, task), place, f"methods_{task}")
    said = [*quick, describe_methods(found), "", "Each method at its best learning rate, seed 0:", *words, ""]
    return "\n".join([*said, *(f"wrote {path}" for path in written)])


def control(out: Path) -> list[pd.DataFrame]:
    """The cells of the control at every rate, those of the sweeps' own rate among them, and the longer SFT."""
    parts = []
    for task in TASKS:
        rates, longer = (read_frame(out / "control" / f"{task}_{name}") for name in ("rates", "longer"))
        usual = read_frame(out / task / "seed0")
        cells = set(zip(rates["rank"], rates["length"], strict=True))
        usual = usual[[cell in cells for cell in zip(usual["rank"], usual["length"], strict=True)]]
        parts += [usual, rates, longer.assign(method=LONGER)]
    return parts


def hardware() -> str:
    """The processor and how many of its cores may be used."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {names[0] if names else platform.processor()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/memft"), metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N − 1 (default 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny grid, to try the script; it answers no question")
    parser.add_argument("--draw-only", type=Path, metavar="DIR", help="tables and figures of a finished run alone")
    given = parser.parse_args()
    if given.draw_only:
        told = json.loads((given.draw_only / "run.json").read_text())
        print(report(given.draw_only, told))
        return
    told = {
        "command": " ".join(["python", "benchmarks/memft.py", *sys.argv[1:]]),
        "quick": given.quick,
        "date": now(),
        "hardware": hardware(),
        "git": commit(),
        "versions": versions(),
    }
    run(given.out, given.seeds, given.quick)
    write(folder(given.out) / "run.json", json.dumps(told, indent=1) + "\n")
    print(report(given.out, told))


if __name__ == "__main__":
    main()
