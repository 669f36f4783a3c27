"""What would a TPU slice need for the paper's grids, and how fast should it be? Nothing is run: the compiler is asked.

What: the step of each config in `tpu_configs/`, and of a few other meshes, compiled by libtpu from shapes; memory by
part, collectives and a predicted step time as `memlaw check` gives them. Then, without a compiler, the predicted time
and cost of each whole grid (`scaling_grid.py`), and other meshes reckoned (`scaling_meshes.py`). Where a model's
tokenizer is not at hand the phone book has samples of the shape that its own would make (`scaling_cases.py`).
Hardware: any CPU; no TPU and no weights. Needs `pip install memlaw-jax[tpu]`.
Time: two to six minutes a case on one core, some hours altogether. Cases whose JSON is there are skipped, so the same
command goes on; `--only` picks some.
Expected: every config fits, and adapters alone need no collective.
Command:

    python benchmarks/scaling.py --out benchmarks/results/scaling
    python benchmarks/scaling.py --out benchmarks/results/scaling --draw   # tables and figure of what is there

OUT gets a JSON file a case, `grids.json`, `meshes.json`, `tables.md` and `scaling.png`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from scaling_cases import BESIDE, Case, cases
from throughput_machine import Parser, guarded


def parser() -> Parser:
    """The cases themselves are fixed."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path("runs/scaling"), metavar="DIR")
    made.add_argument("--only", metavar="WORD", default="", help="cases whose name holds this")
    made.add_argument("--draw", action="store_true", help="compile nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a user's mistake."""
    return guarded(_main, arguments)


def _main(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for case in [] if given.draw else cases():
        path = given.out / f"{case.name}.json"
        if given.only in case.name and not path.exists():
            # libtpu reads its flags once a process, and keeps what it compiled
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as process:
                told = process.submit(check_case, case).result()
            path.write_text(json.dumps(told, indent=1) + "\n")
            print(f"{case.name}: fits {told.get('fits')}, {told['seconds']} s", flush=True)
    from scaling_draw import draw
    from scaling_grid import GRIDS, grids
    from scaling_meshes import MESHES, meshes

    beside = [case for case in cases() if case.group == "mesh" or case.name in BESIDE]
    for name, make, of in (
        (GRIDS, grids, [case for case in cases() if case.group != "mesh"]),
        (MESHES, meshes, beside),
    ):
        if not (given.out / name).exists():
            (given.out / name).write_text(json.dumps(make(of), indent=1) + "\n")
    for written in draw(given.out):
        print(written)
    return 0


def check_case(case: Case) -> dict[str, Any]:
    """What `memlaw check` gives for a case, or why it is refused."""
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from memlaw_jax.check.run import check_sweep
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.errors import UserError
    from memlaw_jax.version import __version__

    begun = time.perf_counter()
    config = read_config(case.path, case.overrides)
    told: dict[str, Any]
    try:
        told = check_sweep(config).as_json()
    except UserError as error:
        told = {"model": config.model, "hardware": config.hardware, "fits": False, "refused": str(error)}
    return told | {
        "case": case.name,
        "group": case.group,
        "task": config.made_task().name,
        "command": " ".join(["memlaw check", f"tpu_configs/{case.config}", *map(repr, case.overrides)]),
        "samples_stand_in": config.task is not None and not isinstance(config.task, dict),
        "seconds": round(time.perf_counter() - begun, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {"memlaw_jax": __version__, "jax": jax.__version__, "libtpu": _libtpu()},
    }


def _libtpu() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
