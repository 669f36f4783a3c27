"""How long does a whole grid take, and does hurrying change the law? One fixed grid by three roads, on one core.

What: random tokens (the paper's r100) on the embedded base, 6 ranks × 4 lengths, of which about half are unsaturated as
in the paper's grid. Roads: `ours`, `ml.sweep` with `stop="recalled"` and `skip="saturated"`; `plain`, the same without
either; `released`, the paper's procedure in PyTorch, one cell after the other at its full budget, from our initial
adapters. The law is fitted to each; where hurrying changed it, α and β would lie outside each other's intervals.
What is counted: wall seconds from the loaded model to the last record on disk, each road in a process of its own, so
compilation is counted. The release starts a process a cell and loads the model again, which is not counted, nor is its
dropout drawn: the ratios are conservative.
The paper gives no times; `released` is the PyTorch column, measured by the same script. What is repeated is our own
claim that a grid takes a fraction of the release's time and gives the same law (`docs/performance.md`).
Hardware: any CPU, of which one core is used, one thread each for XLA and torch. `--scale paper` trains nothing: it
reckons what the three roads would take on the paper's own grid, ours on the machine of `--hardware`, `released` on one
H100, where its cells follow one another for days.
Time: embedded about 10 minutes on a quiet core and 22 beside other processes, nearly all of it `released`, whose
finished cells are kept: the same command goes on. Tiny a minute; paper and `--dry-run` seconds.
Expected: `ours` at least 8 times as fast as `released`; α and β of each within the other's 95 % interval.
Command:

    python benchmarks/makespan.py --out runs/makespan                       # a laptop
    python benchmarks/makespan.py --out runs/makespan --roads ours          # one road; the table has what there is
    python benchmarks/makespan.py --scale tiny --out runs/makespan_tiny     # shows that it works
    python benchmarks/makespan.py --dry-run                                 # cells, FLOPs, seconds, memory
    python benchmarks/makespan.py --scale paper --hardware h100-1           # reckoned: a GPU
    python benchmarks/makespan.py --scale paper --hardware v5e-16           # reckoned: a TPU slice
    python benchmarks/law_long_context.py --scale paper --model PATH --hardware v5e-16     # the grid itself, on a pod

OUT gets `makespan.json`, `table.md`, `makespan.png` and `.svg`, and a folder a road with its records.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throughput_machine import Mistake, Parser, guarded, one_core

ROADS = ("ours", "plain", "released")
GRIDS: dict[str, dict[str, Any]] = {
    "embedded": {"ranks": [1, 2, 4, 8, 16, 32], "lengths": [32, 64, 128, 256], "steps": 400},
    "tiny": {"ranks": [1, 2, 4], "lengths": [12, 24], "steps": 20},
}
SHARED = {"seed": 0, "learning_rate": 0.01, "model": "embedded"}
FASTER = 8.0  # the target
MODEL = "Qwen/Qwen3-8B"


def parser() -> Parser:
    """The grid itself is fixed."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--scale", choices=(*GRIDS, "paper"), default="embedded", help="paper only reckons")
    add("--model", metavar="PATH", help=f"with --scale paper: one of the paper's two models (default: {MODEL})")
    add("--hardware", metavar="NAME", help="with --scale paper: the machine, by its name in tpu_configs/")
    add("--roads", choices=ROADS, nargs="+", default=list(ROADS), help="which to go; finished ones are kept")
    add("--core", type=int, help="which core to use; the last allowed one if left out")
    add("--dry-run", action="store_true", help="print what would be done, and do none of it")
    add("--out", type=Path, default=Path("runs/makespan"), metavar="DIR")
    add("--only", choices=ROADS, help=argparse.SUPPRESS)  # the child process of one road
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a user's mistake."""
    return guarded(_main, arguments)


def _main(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    given = parser().parse_args(arguments)
    core, roads = one_core(given.core), list(dict.fromkeys(given.roads))
    if (given.hardware is None) == (given.scale == "paper"):
        raise Mistake("--scale paper, and it alone, wants --hardware NAME, a machine by its name in tpu_configs/.")
    if given.model and given.scale != "paper":
        raise Mistake(f"--model {given.model} goes with --scale paper; the scale is {given.scale}.")
    if given.scale == "paper":
        from makespan_plan import paper_plan  # JAX reads the environment when it is imported

        print(paper_plan(given.model or MODEL, given.hardware, roads))
        return 0
    plan = GRIDS[given.scale] | SHARED
    if given.dry_run:
        from makespan_plan import embedded_plan  # as above

        print(embedded_plan(plan, roads))
        return 0
    if given.only:
        from makespan_roads import travel  # as above

        travel(given.only, plan, given.out)
        return 0
    claim(given.out, plan)
    for road in roads:
        if finished(given.out, road, plan):
            print(f"{road}: finished earlier", flush=True)
            continue
        child = [sys.executable, __file__, "--only", road, "--scale", given.scale, "--core", str(core)]
        if subprocess.run([*child, "--out", str(given.out)]).returncode:
            print(f"error: the road {road} ended early; what it says is above.", file=sys.stderr)
            return 1
    from makespan_report import report

    print(report(given.out, plan, [road for road in ROADS if finished(given.out, road, plan)], arguments))
    return 0


def claim(out: Path, plan: dict[str, Any]) -> None:
    """Makes the folder, or refuses one that holds another grid."""
    place = out / "plan.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if place.exists() and json.loads(place.read_text()) != plan:
            raise Mistake(f"{out} holds another grid; choose another --out.")
        place.write_text(json.dumps(plan) + "\n")
    except OSError as error:
        raise Mistake(f"cannot write to {out}: {error.strerror}; choose another --out.") from None
    except ValueError:
        raise Mistake(f"{place} is no JSON; choose another --out.") from None


def finished(out: Path, road: str, plan: dict[str, Any]) -> bool:
    """Whether a road has been gone to its end."""
    if road == "released":
        return len(released_records(out)) == len(plan["ranks"]) * len(plan["lengths"])
    return (out / f"{road}.json").exists()


def released_records(out: Path) -> list[dict[str, Any]]:
    """The finished cells of the release's road; a torn last line, of a killed run, is left out."""
    place = out / "released" / "results.jsonl"
    if not place.exists():
        return []
    records = []
    for line in place.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        records.append(json.loads(line))
    return records


if __name__ == "__main__":
    sys.exit(main())
