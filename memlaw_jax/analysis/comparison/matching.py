"""Which cells of two result sets meet, and what else sets the two apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memlaw_jax.analysis.cells import mixtures
from memlaw_jax.errors import UserError

# What defines an experiment beside rank, length, method and seed. `loss_from` and `loss_over` come from the release.
SETTINGS = (
    "implementation", "task", "dataset", "samples", "model", "protocol", "targets", "layers", "init", "alpha",
    "optimizer", "learning_rate", "schedule", "steps", "batch_size", "dropout", "precision", "loss_from", "loss_over",
)  # fmt: skip
KEY = ["group", "rank", "length"]
Key = tuple[str, int, int]
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Match:
    """Runs of both sides, each with its `group`, and the cells (group, rank, length) that both have, in order.

    `group` is the method where cells meet per method, and empty where they meet on rank and length alone. `only_a` and
    `only_b` list the cells without a partner and why they have none.
    """

    a: pd.DataFrame
    b: pd.DataFrame
    keys: tuple[Key, ...]
    only_a: tuple[dict[str, Any], ...]
    only_b: tuple[dict[str, Any], ...]


def match(a: pd.DataFrame, b: pd.DataFrame, method: str | None = None, method_b: str | None = None) -> Match:
    """Cells of the same rank, length and method; of any method where each side has only one.

    `method` picks one method of A, and of B too unless `method_b` names another. Raises `UserError` for a method that
    is not there, for sides whose methods cannot be told apart, and when no cell is on both sides.
    """
    if method_b is None and method in _methods(b):
        method_b = method
    a, b = _picked(a, method, "A"), _picked(b, method_b, "B")
    ours, theirs = _methods(a), _methods(b)
    for here, there, one, other in ((ours, theirs, "A", "B"), (theirs, ours, "B", "A")):
        if len(here) > 1 and not there:
            option = "--method" if one == "A" else "--method-b"
            raise UserError(
                f"{one} holds {len(here)} methods ({', '.join(here)}) and {other} names none; pick one of {one} with "
                f"{option}"
            )
    by_method = len(ours) > 1 or len(theirs) > 1
    a, b = (side.assign(group=side["method"].map(str) if by_method else "") for side in (a, b))
    sizes_a, sizes_b = Counter(_keys(a)), Counter(_keys(b))
    keys = tuple(sorted(sizes_a.keys() & sizes_b.keys()))
    if not keys:
        raise UserError(
            f"A and B share no cell: A has {_listed(a, by_method)}; B has {_listed(b, by_method)}; cells meet only "
            "where rank, length (answer tokens) and method agree exactly"
        )
    return Match(
        a=a,
        b=b,
        keys=keys,
        only_a=_alone(sizes_a, sizes_b, b, "B", by_method),
        only_b=_alone(sizes_b, sizes_a, a, "A", by_method),
    )


def within(frame: pd.DataFrame, keys: Iterable[Key]) -> pd.DataFrame:
    """The runs of these cells, and what diverged among them."""
    wanted = set(keys)
    kept = frame[[key in wanted for key in _keys(frame)]]
    lost = frame.attrs.get("diverged", ())
    places = {(rank, length) for _, rank, length in wanted}
    kept.attrs["diverged"] = tuple(run for run in lost if (run["rank"], run["length"]) in places)
    return kept


def notes(found: Match) -> tuple[str, ...]:
    """What keeps the sets from being one experiment, a sentence each."""
    a, b = within(found.a, found.keys), within(found.b, found.keys)
    said = []
    ours, theirs = _methods(a), _methods(b)
    if (a["group"] == "").all() and ours != theirs:
        names = [methods[0] if methods else "of no name" for methods in (ours, theirs)]
        said.append(f"Cells of different methods are matched: A is {names[0]}, B is {names[1]}.")
    if different := [text for column in SETTINGS if (text := _difference(a, b, column))]:
        said.append(f"Not the same experiment: {'; '.join(different)}.")
    for one, other, name in ((a, b, "A"), (b, a, "B")):
        known = [column for column in SETTINGS if _says(other, column) and not column.startswith("loss_")]
        silent = [column for column in known if column not in one.columns]
        if silent:
            said.append(f"{name} does not say its {', '.join(silent)}; the other side does.")
        for column, usual in (("loss_from", "final_loss"), ("loss_over", "target tokens")):
            unusual = sorted(set(one[column].dropna()) - {usual}) if _says(one, column) else []
            if unusual and not _says(other, column):
                cells = one.loc[one[column].isin(unusual), KEY].drop_duplicates()
                said.append(f"{name}'s {column} is {', '.join(unusual)} in {len(cells)} of {len(found.keys)} cells.")
        for group, runs in one.groupby("group"):
            who = f"{name} ({group!s})" if group else name
            said += [f"{who}: {sentence}" for sentence in mixtures(runs)]
    return tuple(said)


def _keys(frame: pd.DataFrame) -> list[Key]:
    return [(str(group), int(rank), int(length)) for group, rank, length in frame[KEY].itertuples(index=False)]


def _methods(frame: pd.DataFrame) -> list[str]:
    return sorted({str(name) for name in frame["method"].dropna()}) if "method" in frame.columns else []


def _picked(frame: pd.DataFrame, method: str | None, side: str) -> pd.DataFrame:
    if method is None:
        return frame
    names = _methods(frame)
    if method not in names:
        option = "--method" if side == "A" else "--method-b"
        held = f"it holds {', '.join(names)}" if names else "its results name no method"
        raise UserError(f"{side} holds no method {method!r} ({option}); {held}")
    kept = frame[frame["method"] == method]
    lost = frame.attrs.get("diverged", ())
    kept.attrs["diverged"] = tuple(run for run in lost if run.get("method", method) == method)
    return kept


def _alone(
    here: dict[Key, int], there: dict[Key, int], other: pd.DataFrame, name: str, by_method: bool
) -> tuple[dict[str, Any], ...]:
    lost = {
        (str(run.get("method")) if by_method else "", run["rank"], run["length"])
        for run in other.attrs.get("diverged", ())
    }
    return tuple(
        {
            "method": key[0] or None,
            "rank": int(key[1]),
            "length": int(key[2]),
            "runs": int(here[key]),
            "reason": f"{'diverged' if key in lost else 'not'} in {name}",
        }
        for key in sorted(here.keys() - there.keys())
    )


def _listed(frame: pd.DataFrame, by_method: bool) -> str:
    columns = [("ranks", "rank"), ("lengths", "length")] + ([("methods", "method")] if by_method else [])
    parts = []
    for title, column in columns:
        values = [str(value) for value in sorted(frame[column].unique())]
        parts.append(f"{title} {', '.join(values[:_SHOWN])}{', …' if len(values) > _SHOWN else ''}")
    return " and ".join(parts) if len(parts) == 2 else ", ".join(parts)


def _says(frame: pd.DataFrame, column: str) -> bool:
    """Whether anything is given there; a column of nulls says "none" (alpha, say), but tells nobody much."""
    return column in frame.columns and bool((frame[column].map(_canonical) != _NOTHING).any())


def _difference(a: pd.DataFrame, b: pd.DataFrame, column: str) -> str:
    """How one setting differs between the sides of matched cells; empty where it does not or cannot be told."""
    if column not in a.columns or column not in b.columns:
        return ""
    ours, theirs = _settings(a, column), _settings(b, column)
    apart = sum(ours[key] != theirs[key] for key in ours)
    if not apart:
        return ""
    left, right = (sorted(set().union(*side.values())) for side in (ours, theirs))
    where = "" if apart == len(ours) else f" in {apart} of {len(ours)} cells"
    return f"{column} {' or '.join(left[:4])} against {' or '.join(right[:4])}{where}"


def _settings(frame: pd.DataFrame, column: str) -> dict[Key, set[str]]:
    """The values of one setting in each cell."""
    found: dict[Key, set[str]] = {}
    for key, value in zip(_keys(frame), frame[column].map(_canonical), strict=True):
        found.setdefault(key, set()).add(value)
    return found


_NOTHING = "none"


def _canonical(value: Any) -> str:
    """A setting as text, the same whether it comes from JSON (400, [4], null) or CSV (400.0, "[4]", nothing)."""
    if isinstance(value, list | tuple | dict | np.ndarray):
        return str(value)
    if value is None or pd.isna(value):
        return _NOTHING
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return f"{float(value):.12g}"
    return str(value)
