"""The record of a finished cell, and the hash that names a cell (DESIGN.md, "The record of a cell")."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

SCHEMA = 1

FIELDS = (
    "schema", "cell_id", "protocol", "model", "task", "dataset", "method", "rank", "alpha", "targets", "layers",
    "effective_parameters", "length", "samples", "seed", "learning_rate", "steps", "token_visits", "stopped",
    "loss_initial", "loss_final", "token_accuracy", "exact_match", "p_min", "fraction_above_half", "first_failure",
    "seconds", "precision", "device", "mesh", "versions", "started", "git",
)  # fmt: skip


def cell_id(definition: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over everything that defines a cell, as canonical JSON."""
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_line(record: Mapping[str, Any]) -> str:
    """One JSON line; numbers that are not finite become null, which JSON has a word for."""
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise KeyError(f"record lacks {', '.join(missing)}")
    return json.dumps({key: _finite(value) for key, value in record.items()}, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
