"""Does MemFT recall more of a long text than SFT? The paper's Table 2 (long context), with its training curves.

Repeats: greedy token accuracy on random tokens (r100) by SFT, MemFT-OT and MemFT-SW at equal token visits, from ranks
that recall nothing to ranks that recall all, as the mean over the lengths, which is Table 2's number, and at each
length; loss and token accuracy while training. Three seeds, each of which draws the data, the adapter and the order for
all methods alike. `--control` (one seed): are the leads a matter of the learning rate (0.003, 0.01, 0.03, each method
at its best), and does SFT catch up with twice the steps?
Hardware: `embedded`: any CPU; the results in the repository are from 2 cores of an AMD EPYC. `paper`: the TPUs and GPUs
of `tpu_configs/`, bfloat16.
Time: `embedded` 20 minutes of one core, 10 more with `--control`; `paper`: see --dry-run.
Expected (means of three seeds that differ much): at ℓ = 160 57 % of the tokens right by SW at rank 8 against 20 by OT
and 5 by SFT, and 98 % by OT at rank 10 against 73 by SW and 63 by SFT.
Command:

    python benchmarks/memft_long_context.py                                            # laptop
    python benchmarks/memft_long_context.py --scale paper --model DIR --hardware h100-1 --out runs/memft     # GPU
    python benchmarks/memft_long_context.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/memft                                     # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/memft_long_context.py --scale paper --model DIR --hardware v5e-16 --dry-run

OUT gets `table.md`, `result.json`, `methods.md` with every comparison, the figures, and seed0, … with the records (at
paper scale r100). The same command goes on where it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import methods
from common.command import Benchmark
from common.given import Given, Part
from common.numbers import paper
from common.table import Report
from common.table_2 import Setting

METHODS = ("sft", "memft-ot", "memft-sw")


def parts(given: Given) -> list[Part]:
    """A sweep a seed; at paper scale one, of Table 2's ranks and lengths."""
    if given.scale != "paper":
        return methods.small_parts(given, _setting(given))
    methods.no_control(given)
    lengths, ranks = paper()["protocol"]["long_context"]["table_2_lengths"], _ranks(given)
    changes = [
        f"lengths={lengths}",
        f"ranks={ranks}",
        f"methods=[{','.join(METHODS)}]",
        "decode=true",
    ]
    return [Part(folder="r100", config=given.paper_sweep("long_context", ["task.ratio=1.0", *changes]))]


def report(given: Given, parts: Sequence[Part]) -> Report:
    """Table 2 and its figures."""
    return methods.report(given, parts, _setting(given))


def _ranks(given: Given) -> list[int]:
    """Of Table 2, for the family."""
    family = given.family if given.scale == "paper" else "qwen"
    return list(paper()["table_2"]["long_context"][family]["ranks"])


def _setting(given: Given) -> Setting:
    said = paper()["protocol"]["long_context"]
    lengths = said["table_2_lengths"]
    return Setting(
        task="long_context",
        measure="token_accuracy_free",
        words="tokens right when decoded greedily",
        other="token_accuracy",
        recall="token_accuracy",
        twins={name: name for name in METHODS},
        scale={
            "model": given.model,
            "ranks": ", ".join(map(str, _ranks(given))),
            "answer tokens ℓ": f"{len(lengths)} from {lengths[0]} to {lengths[-1]}",
            "steps": str(said["steps"]),
        },
        tiny=["lengths=[12]", "ranks=[1,4]", "optim.steps=20", "lanes=2"],
        control=["ranks=[4,8,12]", "lengths=[160]"],
    )


BENCHMARK = Benchmark(name="memft_long_context", doc=__doc__, parts=parts, report=report, arguments=methods.arguments)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
