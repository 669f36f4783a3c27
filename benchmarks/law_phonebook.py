"""The law on a phone book: the paper's Table 1, PhoneBook.

Repeats: ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b over books of several lengths, each number seen equally often, in small
batches; R² and MAPE as in Table 1, and the heat map of exact match.
Hardware: `embedded`: any CPU; the results in the repository are from one core of an AMD EPYC. `paper`: the TPUs and
GPUs of `tpu_configs/`, bfloat16, the paper's batch at each length.
Time: `embedded` 16 minutes of one core; `paper`: see --dry-run (about 2 hours on a v5e-16, predicted).
Expected: R² of 0.987, α about 0.93, β about 0.37; a form with curvature describes the cells better. No recall at rank
1; all of 20 numbers at rank 12, a quarter of 100 at rank 16.
Command:

    python benchmarks/law_phonebook.py                                                 # laptop
    python benchmarks/law_phonebook.py --scale paper --model DIR --hardware h100-1 --out runs/qwen_book      # GPU
    python benchmarks/law_phonebook.py --scale paper --model DIR --hardware v5e-16 --distributed \\
        --out gs://BUCKET/qwen_book                                 # TPU pod: the same on every host, see tpu_configs/
    python benchmarks/law_phonebook.py --scale paper --model DIR --hardware v5e-16 --dry-run

The paper's own books are used with `task.path=FILE.jsonl`. OUT gets `table.md`, `result.json`, `law.json`, the
figures, and a folder a batch size with the records. The same command goes on where it was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common.command import Benchmark
from common.given import Given, Part
from common.law import law_claims, law_files, law_rows
from common.numbers import paper
from common.phonebook import by_batch
from common.table import Report, scale_rows

from memlaw_jax.analysis import fit_law, read_frame

TINY = ["lengths=[20,40,60]", "ranks=[1,2,4]", "seeds=[0]", "optim.epochs=5", "decode=false"]


def parts(given: Given) -> list[Part]:
    """One sweep, or at paper scale one a batch size."""
    if given.scale == "paper":
        return by_batch(given, ["decode=true"])
    return [Part(folder="book", config=given.sweep("law_phonebook", TINY if given.scale == "tiny" else []))]


def report(given: Given, parts: Sequence[Part]) -> Report:
    """The law of all lengths, beside the paper's."""
    frame = read_frame([given.out / part.folder for part in parts])
    law = fit_law(frame)
    written = law_files(frame, law, given.out, "exact_match")
    torch = given.pytorch()
    family = given.family if given.scale == "paper" else "qwen"
    known = next(row for row in paper()["table_1"]["rows"] if row["model"] == family and row["data"] == "phone book")
    said = paper()["protocol"]["phonebook"]
    scale = {
        "model": given.model,
        "ranks": ", ".join(map(str, said["ranks"])),
        "answer tokens ℓ": ", ".join(map(str, said["lengths"])),
        "steps": f"{said['epochs']} epochs",
    }
    rows = scale_rows(frame, scale)
    rows += law_rows(
        "phone book", {"book": law}, known, fit_law(torch, method=_sft(torch)) if torch is not None else None
    )
    return Report(rows=rows, claims=law_claims("a phone book", {"book": law}), files=written)


def _sft(frame) -> str | None:
    return "sft" if "method" in frame.columns else None


BENCHMARK = Benchmark(name="law_phonebook", doc=__doc__, parts=parts, report=report)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
