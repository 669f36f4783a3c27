"""Does MemFT recall more of a phone book than SFT? The paper's Table 2 (PhoneBook), with its training curves.

Repeats: exact match by SFT, MemFT-OT and MemFT-SW at equal token visits, from ranks that recall none to ranks that
recall all; loss and exact match while training. What the paper's release runs as SW on its phone book has no window: it
is OT with a curriculum over the records, here `memft-curriculum`, which stands beside the paper's SW. In the paper it
has learning rates and epochs of its own (300 to 800 against SFT's 200); here it has one rate and reads as many tokens
as SFT. `memft-sw`, the sliding window, is run at the embedded scale alone. Three seeds, each of which draws the book,
the adapter and the order for all methods alike. `--control` (one seed): are the leads a matter of the learning rate
(0.003, 0.01, 0.03, each method at its best), and does SFT catch up with twice the steps?
Hardware: `embedded`: any CPU; the results in the repository are from 2 cores of an AMD EPYC. `paper`: the TPUs and GPUs
of `tpu_configs/`, bfloat16, the paper's batch at each length.
Time: `embedded` 11 minutes of one core, 10 more with `--control`; `paper`: see --dry-run.
Expected: at rank 8 exact match is 0.09 for SFT, 0.15 for OT, 0.32 for SW and 0.25 for the curriculum.
Command:

    python benchmarks/memft_phonebook.py                                               # laptop
    python benchmarks/memft_phonebook.py --scale paper --model DIR --hardware h100-1 --out runs/memft_book   # GPU
    python benchmarks/memft_phonebook.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/memft_book                                # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/memft_phonebook.py --scale paper --model DIR --hardware v5e-16 --dry-run

The paper's own books are used with `task.path=FILE.jsonl`. OUT gets `table.md`, `result.json`, `methods.md` with every
comparison, the figures, and seed0, … with the records (at paper scale batch4, …, curriculum/batch4, …). The same
command goes on where it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import methods
from common.command import Benchmark
from common.given import Given, Part
from common.numbers import paper
from common.phonebook import by_batch
from common.table import Report
from common.table_2 import Setting

CURRICULUM_EPOCHS = 240  # of which 80 read 20 to 80 % of the records: as many visits as 200 epochs of SFT
TWINS = {"sft": "sft", "memft-ot": "memft-ot", "memft-curriculum": "memft-sw"}


def parts(given: Given) -> list[Part]:
    """A sweep a seed; at paper scale two a batch size, since the curriculum needs more epochs."""
    if given.scale != "paper":
        return methods.small_parts(given, _setting(given))
    methods.no_control(given)
    usual = by_batch(given, ["methods=[sft,memft-ot]", "decode=true"])
    curriculum = ["methods=[memft-curriculum]", f"optim.epochs={CURRICULUM_EPOCHS}"]
    longer = by_batch(given, [*curriculum, "decode=true"])
    return [*usual, *(replace(part, folder=f"curriculum/{part.folder}") for part in longer)]


def report(given: Given, parts: Sequence[Part]) -> Report:
    """Table 2 and its figures."""
    return methods.report(given, parts, _setting(given))


def _setting(given: Given) -> Setting:
    said = paper()["protocol"]["phonebook"]
    return Setting(
        task="phonebook",
        measure="exact_match",
        words="records recalled word for word",
        other="exact_match",
        recall="exact_match",
        twins=TWINS,
        scale={
            "model": given.model,
            "ranks": ", ".join(map(str, said["ranks"])),
            "answer tokens ℓ": ", ".join(map(str, said["lengths"])),
            "steps": f"{said['epochs']} epochs (memft-sw: 300 to 800)",
        },
        tiny=["task.records=10", "ranks=[1,4]", "methods=[sft,memft-ot,memft-curriculum]", "optim.steps=20",
              "optim.batch_size=2", "lanes=2"],
        control=["ranks=[8,12]"],
    )  # fmt: skip


BENCHMARK = Benchmark(name="memft_phonebook", doc=__doc__, parts=parts, report=report, arguments=methods.arguments)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
