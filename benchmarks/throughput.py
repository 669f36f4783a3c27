"""How many times faster than the release? Time of a step of one adapter: two PyTorch procedures and two of ours.

What: in one run, taking turns, (a) the released PyTorch procedure, (b) the lean PyTorch loop, (c) memlaw_jax with one
adapter and nothing cached, (d) memlaw_jax as it ships, with N adapters at a time; for several lengths of one random
sequence. Before anything is timed, all must give the same losses from the same start; where they do not there is no
table. Ours is timed between two looks of the host after the first, which holds compilation; PyTorch by the difference
of two trainings of different length; the parts below the cut are told apart. What is counted as arithmetic stands in
`throughput_flops.py`. Dropout is off and the adapter float32 on all sides.
The paper gives no times; a and b are the PyTorch column, measured in the same run. What is repeated is our own claim:
the release does several times the arithmetic that its result needs (`docs/performance.md`).
Hardware: `--scale embedded` (the default) any CPU, of which one core is used, one thread each for XLA and torch: a
random decoder of the paper's geometry at a sixteenth of its width. `--scale paper` one GPU of 80 GB: Qwen3-8B's shape,
random bfloat16 weights made on the device, no checkpoint. `--scale tiny` any CPU; it shows that the script works.
Time: embedded about 8 minutes on one core of an AMD EPYC; paper at most 8 minutes on an H100 and what was begun before
(no length, side or round is begun later); tiny a minute.
Expected: embedded, float32, 512 tokens: d at least 4 times as fast as a, and no slower than b. Paper: d at least 20
times as fast as a at 200 tokens, 8 times at 500, 4.5 times at 2000; at least 70 % of what arithmetic lets it gain on
c; half of the matmul peak at 2000 tokens; 16 adapters on 10,000 tokens fit. The table says what was met.
Command:

    python benchmarks/throughput.py --out runs/throughput                          # a laptop
    python benchmarks/throughput.py --scale paper --out runs/throughput_paper      # a GPU of 80 GB
    python benchmarks/throughput.py --scale paper --tokens 10000 --out runs/long   # the same, ours alone: does it fit?
    python benchmarks/throughput.py --scale tiny --dtype bfloat16 --out runs/tiny
    python benchmarks/throughput.py --dry-run                                      # lengths, FLOPs, seconds, memory

It cannot run on a TPU pod, where PyTorch's sides have no device; `memlaw check` and `scaling.py` reckon steps there.
OUT gets `throughput.json` and `table.md`, written anew after each round. What does not fit into memory is noted and
the rest goes on. JAX takes its share of a GPU when it starts, so that lengths which ours runs alone are a run apart.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throughput_machine import Mistake, Parser, guarded, one_core, one_gpu

LEAST_TOKENS = 16
ALONE = 2000  # longest sequence at the paper's scale on which torch trains too


def parser() -> Parser:
    """What is left out is the scale's own."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add(
        "--scale",
        choices=("embedded", "cpu-head", "paper", "tiny"),
        default="embedded",
        help="the model and what is measured on it",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="of the frozen model")
    add("--tokens", type=int, nargs="+", metavar="T", help="lengths of the sequence, its prompt included")
    add("--adapters", type=int, nargs="+", metavar="N", help="numbers of adapters that ours trains at once")
    add("--ranks", type=int, nargs="+", metavar="R", help="of the adapters, the largest first")
    add("--rounds", type=int, help="turns of all sides at each length")
    add("--steps", type=int, help="steps that are timed in a round")
    add("--alone", type=int, metavar="T", help="beyond so many tokens ours runs alone")
    add("--minutes", type=float, help="no length, side or further round is begun after so many")
    add("--clock", choices=("wall", "cpu"), default="wall", help="`cpu` on a CPU that others use too")
    add("--core", type=int, help="which core to use, on a CPU; the last allowed one if left out")
    add("--device", choices=("auto", "cpu"), default="auto", help="`cpu` runs any scale on one core")
    add("--dry-run", action="store_true", help="print what would be done, and do none of it")
    add("--out", type=Path, default=Path("runs/throughput"), metavar="DIR")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if the sides disagree; 2 for a user's mistake."""
    return guarded(_main, arguments)


def _main(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser().parse_args(arguments)
    for name, least in (("tokens", LEAST_TOKENS), ("adapters", 1), ("ranks", 1)):
        if min(getattr(given, name) or [least]) < least:
            raise Mistake(f"--{name} has {min(getattr(given, name))}; give numbers of {least} or more.")
    for name in ("rounds", "steps", "minutes", "alone"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise Mistake(f"--{name} is {value}; give a number above 0.")
    if given.dry_run:
        one_core(given.core)
        from throughput_plan import plan  # JAX and torch read the environment when they are imported

        print(plan(given))
        return 0
    if given.scale == "paper" and given.device == "auto":
        if given.clock == "cpu":
            raise Mistake("--clock cpu does not see what a GPU does; use --clock wall.")
        if not (shutil.which("nvidia-smi") or os.path.exists("/dev/nvidia0")):
            raise Mistake("--scale paper needs a GPU of 80 GB, and there is none here; use --scale embedded.")
        one_gpu(alone=_alone(given))
    else:
        one_core(given.core)
    from throughput_run import run  # as above

    return run(given, arguments)


def _alone(given: argparse.Namespace) -> bool:
    """Whether torch has no model in this run, so that JAX may have the GPU."""
    beyond = {tokens > (given.alone or ALONE) for tokens in given.tokens or [ALONE]}
    if len(beyond) > 1:
        raise Mistake(
            f"--tokens has lengths up to and beyond {given.alone or ALONE}, beyond which ours has the GPU to itself; "
            "give them in two runs."
        )
    return beyond.pop()


if __name__ == "__main__":
    sys.exit(main())
