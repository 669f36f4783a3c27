"""The records that an adapter does not recall, and where each breaks off: what `remember` and `recall` end with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from memlaw_jax.models import Adapter, Base
    from memlaw_jax.readout import FreeRun, RecallReport
    from memlaw_jax.tasks import Encoded

    Part = TypeVar("Part", RecallReport, FreeRun)

SHOWN = 20
ROWS = 64  # records between two moves of the progress bar
_WIDTH = 28


def checked(base: Base, adapter: Adapter, encoded: Encoded, *, bar: bool) -> tuple[RecallReport, FreeRun]:
    """Verifies records, and decodes what is missed; with a progress bar on standard error."""
    from tqdm import tqdm

    from memlaw_jax.readout import FreeRun, RecallReport, free_run, recall

    samples = len(encoded.keys)
    size = math.ceil(samples / math.ceil(samples / ROWS))  # as even as they come
    reports, runs = [], []
    layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left"
    with tqdm(total=samples, bar_format=layout, leave=False, disable=not bar) as progress:
        progress.set_description_str("verifying")
        for start in range(0, samples, size):
            part = _rows(encoded, slice(start, start + size))
            reports.append(recall(base, adapter, part))
            runs.append(free_run(base, adapter, part))
            progress.update(len(part.keys))
    return _joined(RecallReport, reports), _joined(FreeRun, runs)


def _rows(encoded: Encoded, rows: slice) -> Encoded:
    return dataclasses.replace(
        encoded, **{field.name: getattr(encoded, field.name)[rows] for field in dataclasses.fields(encoded)}
    )


def _joined(kind: type[Part], parts: Sequence[Part]) -> Part:
    """Reports on parts of a data set as one on all of it."""
    first = parts[0]
    arrays = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(first)
        if field.name != "keys"
    }
    return kind(keys=tuple(key for part in parts for key in part.keys), **arrays)


def finite(value: float) -> float | None:
    """None for what is no finite number, which JSON has no word for: the losses of an adapter that diverged."""
    return value if math.isfinite(value) else None


def misses(base: Base, encoded: Encoded, report: RecallReport, free: FreeRun) -> list[dict[str, Any]]:
    """One entry a record that is not recalled: the tokens right before its first error, the error, and what was meant.

    `probability` is that of the token that should have come, given the true ones before it; None where the adapter
    gives no finite number.
    """
    found = []
    for row, first in enumerate(report.first_failures):
        if first < 0:
            continue
        mask = report.mask[row]
        wanted, got = encoded.labels[row][mask], free.ids[row][mask]
        found.append({
            "record": report.keys[row],
            "tokens": int(mask.sum()),
            "right_before_error": int(first),
            "probability": finite(float(np.exp(-report.nats[row, first]))),
            "tokens_below_half": int((~(report.nats[row][mask] < np.log(2))).sum()),
            "expected": base.tokenizer.decode([int(wanted[first])]),
            "decoded": base.tokenizer.decode([int(got[first])]),
            "target": base.tokenizer.decode(wanted.tolist()),
            "answer": base.tokenizer.decode(got.tolist()),
        })  # fmt: skip
    return sorted(found, key=lambda miss: miss["right_before_error"] / miss["tokens"])


def table(entries: list[dict[str, Any]]) -> str:
    """The misses for a terminal, those that break off first on top."""
    rows = [("record", "right", "of", "then said", "instead of", "whose p is", "tokens below ½")]
    rows += [
        (
            _short(miss["record"]),
            str(miss["right_before_error"]),
            str(miss["tokens"]),
            _short(repr(miss["decoded"]), 16),
            _short(repr(miss["expected"]), 16),
            "no number" if miss["probability"] is None else f"{miss['probability']:.2g}",
            str(miss["tokens_below_half"]),
        )
        for miss in entries[:SHOWN]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in (1, 2, 6) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    if len(entries) > SHOWN:
        lines.append(f"  … and {len(entries) - SHOWN} more (all of them with --json)")
    return "\n".join(lines)


def _short(text: str, width: int = _WIDTH) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= width else text[: width - 1] + "…"
