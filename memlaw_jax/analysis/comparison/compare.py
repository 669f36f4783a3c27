"""Two result sets side by side: matched cells, their differences with intervals, and the laws of both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.comparison import matching
from memlaw_jax.analysis.comparison.compare_words import table, verdict
from memlaw_jax.analysis.comparison.contrast import Contrast, contrast
from memlaw_jax.analysis.comparison.matching import KEY, Key, Match
from memlaw_jax.analysis.comparison.spread import difference_interval
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law.filters import checked_filter
from memlaw_jax.analysis.law.fit import checked_replicates, fit_law
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.errors import UserError

SCHEMA = 1
RESAMPLES = 10_000
# The range of K values covers their population's median with probability 1 − 2^(1−K): 94 % from five on.
FEWEST_CELLS = 5
# Columns of the table and of the results that they are means of; "delta" is ΔL.
MEASURES = {
    "initial": "loss_initial",
    "final": "loss_final",
    "delta": "delta",
    "exact_match": "exact_match",
    "token_accuracy": "token_accuracy",
}


@dataclass(frozen=True, kw_only=True)
class Overall:
    """B − A of one measure over the matched cells: nats, or a share of 1 for recall.

    `low` and `high` are a 95 % interval of the mean from resampling the cells, None for fewer than 5 of them.
    `largest` is the difference of the greatest size, `largest_at` its cell (method where there are several, rank,
    length).
    """

    cells: int
    mean: float
    low: float | None
    high: float | None
    rms: float
    largest: float
    largest_at: tuple[str | None, int, int]
    lower: int  # cells where B is lower
    higher: int


@dataclass(frozen=True, kw_only=True)
class LawPair:
    """The laws of both sides over the matched cells, or over all cells of each.

    `differences` (B − A, by a paired bootstrap) exists over matched cells where both laws do. `why` says of "a", "b"
    and "differences" why there is none; a law's absence explains that of the differences.
    """

    method_a: str | None
    method_b: str | None
    over: str  # "matched cells" or "all cells"
    a: Law | None
    b: Law | None
    differences: dict[str, Contrast] | None
    why: dict[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What `compare` found. Losses in nats per answer token; every difference is B − A.

    `cells` has a row a matched cell: `method_a`, `method_b`, `rank`, `length`, `runs_a`, `runs_b`, `paired` (the same
    seeds on both sides), means and differences of `initial`, `final`, `delta`, and, where both sides have them,
    `exact_match` and `token_accuracy` as `final_a`, `final_b`, `final_difference`; 95 % intervals `final_low`,
    `final_high`, `delta_low`, `delta_high` (nan without a second seed); least and greatest final loss of the runs; and
    `final_relative`, the difference over A's final loss.
    """

    a: str
    b: str
    cells: pd.DataFrame
    overall: dict[str, Overall]
    only_a: tuple[dict[str, Any], ...]
    only_b: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    laws: tuple[LawPair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types; null where a number is not known."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.cells.to_dict("records")]
        laws = [
            {
                **{name: getattr(pair, name) for name in ("method_a", "method_b", "over", "why")},
                "a": pair.a.to_dict() if pair.a else None,
                "b": pair.b.to_dict() if pair.b else None,
                "differences": {name: asdict(value) for name, value in pair.differences.items()}
                if pair.differences
                else None,
            }
            for pair in self.laws
        ]
        return {
            "schema": SCHEMA,
            "a": self.a,
            "b": self.b,
            "difference": "b - a, nats per answer token",
            "verdict": verdict(self),
            "overall": {name: asdict(value) for name, value in self.overall.items()},
            "notes": list(self.notes),
            "cells": rows,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "laws": laws,
        }

    def save(self, out: str | os.PathLike[str]) -> list[epath.Path]:
        """Write `compare.csv`, `compare.json` and `compare.md` into a folder; returns their paths."""
        place = files.folder(out)
        contents = {
            "compare.csv": self.cells.to_csv(index=False),
            "compare.json": json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "compare.md": table(self),
        }
        return [files.write(place / name, content) for name, content in contents.items()]


def compare(
    a: Source | Iterable[Source],
    b: Source | Iterable[Source],
    *,
    method: str | None = None,
    method_b: str | None = None,
    filter: str = "predicted",
    bootstrap: int = 400,
    seed: int = 0,
) -> Comparison:
    """Two result sets, each anything `read_frame` takes, side by side.

    Cells meet on equal rank, length and method, or on rank and length where each side has one method; `method` picks
    one of A's (and of B's, unless `method_b` names another). `filter` and `bootstrap` are those of `fit_law`; `seed`
    draws every resample. Raises `UserError` for bad input and when no cell meets another.
    """
    checked_filter(filter)
    checked_replicates(bootstrap, seed)
    ours, theirs = (
        runs.assign(delta=runs["loss_initial"] - runs["loss_final"]) for runs in (read_frame(a), read_frame(b))
    )
    found = matching.match(ours, theirs, method, method_b)
    cells = _cells(found)
    return Comparison(
        a=", ".join(ours.attrs["source"]),
        b=", ".join(theirs.attrs["source"]),
        cells=cells,
        overall={name: summary(cells, name, seed) for name in MEASURES if f"{name}_difference" in cells},
        only_a=found.only_a,
        only_b=found.only_b,
        notes=matching.notes(found),
        laws=tuple(_laws(found, {"filter": filter, "bootstrap": bootstrap, "seed": seed, "evidence": False})),
    )


def _cells(found: Match) -> pd.DataFrame:
    sides = [_by_cell(side, found.keys) for side in (found.a, found.b)]
    paired = np.array([_same_seeds(x, y) for x, y in zip(*sides, strict=True)])
    rows: dict[str, Any] = {
        "method_a": [_method(runs) for runs in sides[0]],
        "method_b": [_method(runs) for runs in sides[1]],
        "rank": [key[1] for key in found.keys],
        "length": [key[2] for key in found.keys],
        "runs_a": [len(runs) for runs in sides[0]],
        "runs_b": [len(runs) for runs in sides[1]],
        "paired": paired,
    }
    for name, column in MEASURES.items():
        if column not in found.a.columns or column not in found.b.columns:
            continue
        values = [[pd.to_numeric(runs[column], errors="coerce").to_numpy(float) for runs in side] for side in sides]
        means = [np.array([x[np.isfinite(x)].mean() if np.isfinite(x).any() else np.nan for x in v]) for v in values]
        if np.isnan(means[1] - means[0]).all():
            continue
        rows[f"{name}_a"], rows[f"{name}_b"] = means
        rows[f"{name}_difference"] = means[1] - means[0]
        if name in ("final", "delta"):
            rows[f"{name}_low"], rows[f"{name}_high"] = difference_interval(values[0], values[1], paired)
        if name == "final":
            for side, v in zip("ab", values, strict=True):
                rows[f"final_least_{side}"] = [x.min() for x in v]
                rows[f"final_greatest_{side}"] = [x.max() for x in v]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                rows["final_relative"] = np.where(means[0] > 0, (means[1] - means[0]) / means[0], np.nan)
    return pd.DataFrame(rows)


def _by_cell(frame: pd.DataFrame, keys: tuple[Key, ...]) -> list[pd.DataFrame]:
    """The runs of each cell, in an order that does not depend on the order of the rows."""
    order = [name for name in ("seed", "loss_final", "loss_initial") if name in frame.columns]
    groups = dict(iter(frame.sort_values(order, kind="stable").groupby(KEY)))
    return [groups[key] for key in keys]


def _same_seeds(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    if "seed" not in a.columns or "seed" not in b.columns or a["seed"].isna().any() or a["seed"].duplicated().any():
        return False
    return a["seed"].tolist() == b["seed"].tolist()


def _method(runs: pd.DataFrame) -> str | None:
    names = runs["method"].dropna().tolist() if "method" in runs.columns else []
    return str(names[0]) if names else None


def summary(cells: pd.DataFrame, name: str, seed: int) -> Overall:
    """How one measure differs over the rows of a comparison's table."""
    column = f"{name}_difference"
    some = cells[cells[column].notna()]
    apart = some[column].to_numpy(float)
    low = high = None
    if len(apart) >= FEWEST_CELLS:
        drawn = np.random.default_rng(seed).integers(len(apart), size=(RESAMPLES, len(apart)))
        low, high = (float(x) for x in np.percentile(apart[drawn].mean(axis=1), [2.5, 97.5]))
    largest = int(np.argmax(np.abs(apart)))
    at = some.iloc[largest]
    return Overall(
        cells=len(apart),
        mean=float(apart.mean()),
        low=low,
        high=high,
        rms=float(np.sqrt((apart**2).mean())),
        largest=float(apart[largest]),
        largest_at=(at["method_b"] if cells["method_b"].nunique() > 1 else None, int(at["rank"]), int(at["length"])),
        lower=int((apart < 0).sum()),
        higher=int((apart > 0).sum()),
    )


def _laws(found: Match, options: dict[str, Any]) -> Iterable[LawPair]:
    """For each group: the laws of its matched cells, and those of all its cells where either side has more."""
    for group in sorted({key[0] for key in found.keys}):
        keys = [key for key in found.keys if key[0] == group]
        whole = [side[side["group"] == group] for side in (found.a, found.b)]
        matched = [matching.within(side, keys) for side in whole]
        yield _pair(matched, "matched cells", options)
        if any(len(side) > len(part) for side, part in zip(whole, matched, strict=True)):
            yield _pair(whole, "all cells", options)


def _pair(sides: list[pd.DataFrame], over: str, options: dict[str, Any]) -> LawPair:
    laws: list[Law | None] = []
    why = {}
    for name, runs in zip("ab", sides, strict=True):
        try:
            laws.append(fit_law(runs.drop(columns=["group", "delta"]), **options))
        except UserError as problem:
            laws.append(None)
            why[name] = str(problem)
    a, b = laws
    differences = None
    if a is not None and b is not None and over == "matched cells":
        try:
            differences = contrast(a, b, options["bootstrap"], options["seed"])
        except UserError as problem:
            why["differences"] = str(problem)
    who = {f"method_{name}": _method(runs) for name, runs in zip("ab", sides, strict=True)}
    return LawPair(**who, over=over, a=a, b=b, differences=differences, why=why)  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """A JSON type, with null for nan."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
