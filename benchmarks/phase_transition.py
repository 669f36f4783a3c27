"""The transition at p = ½ (the paper's Figure 3 and its ρ), in float32 and in bfloat16: is a token above ½ ever missed?

Trains adapters on a phone book, on held-out text and on random tokens, from ranks that fail to ranks that recall, and
decodes each greedily. Three arithmetics: `float32`; `bfloat16`, on a base that rounds in training, verification and
decoding; and `served`, the adapters of `float32` decoded on the bfloat16 base, their p still that of float32, as when
an adapter is served in less precision than it was trained in. The question for each: which p of a token is enough for
greedy decoding to get it right, given that everything before was right.
Hardware: any CPU; the results in the repository are from 2 cores of an Intel Xeon.
Time: about 6 minutes.
Expected: in float32 no token above ½ is missed. In bfloat16 a token a little above ½ could be.
Command:

    python benchmarks/phase_transition.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from memlaw_jax.analysis import look_and_draw
from memlaw_jax.cli.config import read_config
from memlaw_jax.models import Base, load_adapter, load_base
from memlaw_jax.readout import encode, free_run, recall
from memlaw_jax.results import commit, now, versions
from memlaw_jax.training import run_sweep
from memlaw_jax.training.logging import Log

HERE = Path(__file__).parent
TASKS: dict[str, list[str]] = {
    "phonebook": [],
    "text": ["task={kind: long_context, ratio: 0.0}", "lengths=[96, 192]", "optim.batch_size=null"],
    "random": ["task={kind: long_context, ratio: 1.0}", "lengths=[64, 128]", "optim.batch_size=null"],
}
DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Trains (or goes on), draws, and says what p was enough."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=HERE / "results" / "phase_transition")
    arguments.add_argument("--task", action="append", choices=tuple(TASKS), help="only this one (may be repeated)")
    arguments.add_argument("overrides", nargs="*", metavar="key=value", help="of the sweeps' settings")
    args = arguments.parse_args()
    tasks = args.task or list(TASKS)
    bases = {dtype: load_base("embedded", dtype) for dtype in DTYPES}
    served: dict[str, Any] = {}
    for dtype in DTYPES:
        for task in tasks:
            overrides = [*TASKS[task], f"dtype={dtype}", *args.overrides]
            config = read_config(HERE / "configs" / "phase_transition.yaml", overrides)
            out = args.out / dtype / task
            results = run_sweep(bases[dtype], config, out, Log(out))
            if dtype == "float32":
                served[task] = serve(bases, config, results.records, out)
        _, _, words = look_and_draw([args.out / dtype / task for task in tasks], args.out / f"microscope_{dtype}")
        print(f"\n{dtype}\n{words}\n")
    told = {"command": " ".join(["python", *sys.argv]), "date": now(), "git": commit(), "versions": versions()}
    (args.out / "served_in_bfloat16.json").write_text(json.dumps(told | served, indent=1) + "\n")
    print("float32 adapters, decoded on the bfloat16 base:")
    for task, found in served.items():
        print(f"  {task}: {describe(found)}")


def serve(bases: dict[str, Base], config: Any, records: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """p of each token in float32, against what greedy decoding on the bfloat16 base says of it.

    Only tokens that greedy decoding reaches with everything before them right are counted: up to the first failure.
    """
    p, missed = [], []
    for record in records:
        samples = config.made_task().samples(
            bases["float32"].tokenizer, record["length"], max_length=bases["float32"].config.max_positions
        )
        adapter, encoded = load_adapter(out / "adapters" / record["cell_id"]), encode(bases["float32"], samples)
        report = recall(bases["float32"], adapter, encoded)
        free = free_run(bases["bfloat16"], adapter, encoded)
        for nats, right, mask in zip(report.nats, free.right, report.mask, strict=True):
            reached = np.cumprod(np.concatenate([[True], right[mask][:-1]])).astype(bool)
            p.append(np.exp(-nats[mask][reached]))
            missed.append(~right[mask][reached])
    chance, wrong = np.concatenate(p), np.concatenate(missed)
    return {
        "tokens": len(chance),
        "above_half": int((chance > 0.5).sum()),
        "missed": int(wrong.sum()),
        "missed_above_half": int((wrong & (chance > 0.5)).sum()),
        "largest_p_missed": float(chance[wrong].max()) if wrong.any() else None,
    }


def describe(found: dict[str, Any]) -> str:
    """One line."""
    return (
        f"{found['missed_above_half']} of {found['above_half']} tokens above ½ missed ({found['missed']} of "
        f"{found['tokens']} in all); the largest p of a missed token is {found['largest_p_missed']}"
    )


if __name__ == "__main__":
    main()
