"""The records that an adapter does not recall, and where each breaks off: what `remember` and `recall` end with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from memlaw_jax.models import Base
    from memlaw_jax.readout import FreeRun, RecallReport
    from memlaw_jax.tasks import Encoded

SHOWN = 20
_WIDTH = 28


def misses(base: Base, encoded: Encoded, report: RecallReport, free: FreeRun) -> list[dict[str, Any]]:
    """One entry a record that is not recalled: the tokens right before its first error, the error, and what was meant.

    `probability` is that of the token that should have come, given the true ones before it.
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
            "probability": float(np.exp(-report.nats[row, first])),
            "tokens_below_half": int((report.nats[row][mask] >= np.log(2)).sum()),
            "expected": base.tokenizer.decode([int(wanted[first])]),
            "decoded": base.tokenizer.decode([int(got[first])]),
            "target": base.tokenizer.decode(wanted.tolist()),
            "answer": base.tokenizer.decode(got.tolist()),
        })  # fmt: skip
    return sorted(found, key=lambda miss: miss["right_before_error"] / miss["tokens"])


def table(entries: list[dict[str, Any]]) -> str:
    """The misses for a terminal, those that break off first on top."""
    rows = [("record", "right", "of", "then came", "instead of", "at p", "below ½")]
    rows += [
        (
            _short(miss["record"]),
            str(miss["right_before_error"]),
            str(miss["tokens"]),
            _short(repr(miss["decoded"]), 16),
            _short(repr(miss["expected"]), 16),
            f"{miss['probability']:.2g}",
            str(miss["tokens_below_half"]),
        )
        for miss in entries[:SHOWN]
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    if len(entries) > SHOWN:
        lines.append(f"  … and {len(entries) - SHOWN} more (all of them with --json)")
    return "\n".join(lines)


def _short(text: str, width: int = _WIDTH) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
