"""Runs that may be compared: what they are measured by, what a pair must share, and equal compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from memlaw_jax.errors import UserError

CELL = ["task", "length", "rank"]
UNIT = ["seed", "dataset"]
# What a pair must share beside its cell and unit. Not the steps: a curriculum may need more of them for equal visits.
SETTINGS = (
    "model", "protocol", "learning_rate", "schedule", "batch_size", "optimizer", "targets", "layers", "init", "alpha",
    "dropout", "precision",
)  # fmt: skip
_LEAST = 1e-45  # the smallest float32 above 0, where a probability underflowed


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column to compare by: a share of 1, or a probability taken as its log₁₀, whose differences are of factors."""

    column: str
    words: str
    logarithmic: bool = False

    def values(self, runs: pd.DataFrame) -> Float[np.ndarray, " K"]:
        """The column as it is averaged; nan where it is not given."""
        raw = pd.to_numeric(runs[self.column], errors="coerce").to_numpy(float)
        return np.log10(np.maximum(raw, _LEAST)) if self.logarithmic else raw


MEASURES = {
    measure.column: measure
    for measure in (
        Measure(column="exact_match", words="exact match"),
        Measure(column="token_accuracy_free", words="free-running token accuracy"),
        Measure(column="token_accuracy", words="teacher-forced token accuracy"),
        Measure(column="p_min", words="worst token's p", logarithmic=True),
    )
}


def filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that every comparison of methods needs, checked."""
    attrs = dict(frame.attrs)
    missing = [name for name in ("method", "seed") if name not in frame or frame[name].isna().any()]
    if missing:
        raise UserError(f"methods are compared run by run, so every run must say its {', '.join(missing)}")
    frame = frame.assign(**{name: "" for name in ("task", "dataset") if name not in frame})
    if not any(name in frame for name in MEASURES):
        raise UserError(f"the results hold none of {', '.join(MEASURES)}, so there is nothing to compare methods by")
    frame.attrs = attrs
    return frame


def prepared(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """With a `unit` (what is replicated) and a `pair` (what two runs must share), one run of each method in either."""
    frame = filled(frame)
    attrs = dict(frame.attrs)
    found = list(dict.fromkeys(frame["method"]))
    if reference not in found or len(found) < 2:
        raise UserError(f"a comparison with {reference!r} needs it and another method; the results hold {found}")
    settings = [name for name in SETTINGS if name in frame]
    frame = frame.assign(unit=_joined(frame, UNIT), pair=_joined(frame, [*CELL, *UNIT, *settings]))
    frame = frame.sort_values([*CELL, "unit"], kind="stable").reset_index(drop=True)
    twice = frame[frame.duplicated([*CELL, "method", "unit"], keep=False)]
    if len(twice):
        runs = twice[(twice[[*CELL, "method", "unit"]] == twice[[*CELL, "method", "unit"]].iloc[0]).all(axis=1)]
        apart = [name for name in (*settings, "steps") if name in runs and runs[name].map(str).nunique() > 1]
        how = "; ".join(f"{name} {' and '.join(map(str, runs[name]))}" for name in apart) or "nothing that they tell"
        run = runs.iloc[0]
        raise UserError(
            f"{run['method']} was run {len(runs)} times at rank {run['rank']}, length {run['length']}, seed "
            f"{run['seed']}, differing in {how}; compare one of these at a time"
        )
    frame.attrs = attrs
    return frame


def _joined(frame: pd.DataFrame, names: list[str]) -> list[str]:
    return [" | ".join(map(str, row)) for row in frame[names].itertuples(index=False)]


def matched(
    frame: pd.DataFrame, reference: str, tolerance: float | None
) -> tuple[pd.DataFrame, tuple[dict[str, Any], ...]]:
    """The runs whose token visits are those of their reference run, and the others."""
    if tolerance is None:
        return frame, ()
    if "token_visits" not in frame or frame["token_visits"].isna().any():
        raise UserError("every run must say its token_visits; pass tolerance=None to compare whatever was spent")
    visits = frame[frame["method"] == reference].set_index("pair")["token_visits"].astype(float)
    theirs = frame["pair"].map(visits)
    off = (frame["token_visits"] / theirs - 1).abs() > tolerance  # nan, without a reference, is not off
    left = frame[off].assign(reference_visits=theirs[off])
    return frame[~off], tuple(named(left, "token_visits", "reference_visits"))


def split(runs: pd.DataFrame, by: Any) -> list[tuple[Any, pd.DataFrame]]:
    """The groups of some columns, with the values that name them."""
    return list(runs.groupby(by, sort=True))


def named(runs: pd.DataFrame, *more: str) -> list[dict[str, Any]]:
    """Which runs these are."""
    return [plain(run) for run in runs[[*CELL, "method", "seed", *more]].to_dict("records")]


def main_measure(part: pd.DataFrame) -> str:
    """What the verdict on a task is about: a single sample is recalled whole or not, which tells too little."""
    single = "samples" in part and part["samples"].max() == 1
    wanted = ("token_accuracy_free", "token_accuracy") if single else ("exact_match",)
    given = [name for name in MEASURES if name in part and part[name].notna().any()]
    return next((name for name in wanted if name in given), given[0])


def plain(row: dict[Any, Any]) -> dict[str, Any]:
    """JSON types, with null for nan."""
    values = {str(key): value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in values.items()
    }
