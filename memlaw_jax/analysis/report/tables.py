"""The report's tables: what stands in each cell, and by what it is sorted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memlaw_jax.analysis.law.card import fit_card
from memlaw_jax.analysis.law.law import CellFit, Law
from memlaw_jax.analysis.signs import signs

SIGNS = {"alpha": "α", "beta": "β", "b": "b (nats)", "c_ref": "C_ref (nats)", "C": "C (nats)"}
_DENSE = 10  # columns that a wide page shows at their usual distance
HELD_OUT = {
    "largest_ranks": "largest ranks out",
    "longest_lengths": "longest lengths out",
    "leave_one_rank_out": "each rank out in turn",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a reader sees, and the number or text that sorting goes by; None sorts last."""

    text: str
    key: float | str | None = None
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns. `strong` rows stand out, `faint` ones stand back; `note` says why."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    sortable: bool = True
    strong: frozenset[int] = frozenset()
    faint: frozenset[int] = frozenset()
    note: str = ""

    @property
    def dense(self) -> bool:
        """Whether it has so many columns that they need to stand closer to be seen together."""
        return len(self.columns) > _DENSE

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which stand to the right."""
        told = [row[column] for row in self.rows if row[column].text != "–"]
        return bool(told) and all(entry.numeric for entry in told)


def text(value: Any) -> Entry:
    said = "–" if value is None or value == "" else str(value)
    return Entry(text=said, key=None if said == "–" else said)


def number(value: float | None, spec: str = "") -> Entry:
    """A number in a format; by default whole numbers whole, others in four digits."""
    if value is None or not isinstance(value, (int, float, np.number)) or math.isnan(value):
        return Entry(text="–", numeric=True)
    value = float(value)
    if math.isinf(value):
        return Entry(text="∞" if value > 0 else "−∞", key=value, numeric=True)
    if (abs(value) >= 1000 and (spec.endswith("g") or not spec)) or (value == int(value) and not spec):
        said = f"{value:,.0f}"
    else:
        said = f"{value:{spec or '.4g'}}"
    return Entry(text=signs(said).replace(",", "\u202f"), key=value, numeric=True)


def percent(value: float | None) -> Entry:
    return (
        Entry(text="–", numeric=True) if value is None else Entry(text=f"{100 * value:.1f} %", key=value, numeric=True)
    )


def intervals(law: Law) -> Table:
    """Every number of the law with all that tells how sure it is, side by side."""
    profiles = {profile.name: profile for profile in law.profiles}
    columns = ["", "estimate"]
    columns += ["95 % bootstrap"] * bool(law.draws) + ["95 % profile"] * bool(profiles)
    columns += ["± jackknife, cells", "± jackknife, ranks"] * bool(law.jackknife)
    rows = []
    for name, sign in SIGNS.items():
        value = getattr(law, name)
        row = [text(sign), number(value, ".4g")]
        if law.draws:
            row.append(_span(*law.interval(name)))
        if profiles:
            row.append(_span(profiles[name].low, profiles[name].high) if name in profiles else text(None))
        if law.jackknife:
            row += [number(getattr(law.jackknife, way).get(name), ".3g") for way in ("cells", "ranks")]
        rows.append(tuple(row))
    note = (
        "Bootstrap: refits to resampled cells. Profile: where the likelihood, the other numbers refitted, stays within "
        "its 95 % bound; “open” where it never reaches it. Jackknife: the standard error (one, not two) from leaving "
        "out a cell or a whole rank at a time; where ranks say much more than cells, ranks differ in more than noise. "
        f"C_ref is ΔL − b at rank {law.rank_ref:.3g} and {law.length_ref:.0f} tokens, the middle of the used cells."
    )
    return Table(caption="Intervals", columns=tuple(columns), rows=tuple(rows), sortable=False, note=note)


def tests(law: Law) -> Table:
    """The hypotheses that would make the law simpler."""
    meaning = {
        "b = 0": "no part of ΔL is independent of rank and length",
        "α = β": "only the ratio r/ℓ counts",
        "α = β = 1": "capacity is proportional to the rank",
    }
    rows = tuple(
        (
            text(test.name),
            text(meaning.get(test.name)),
            number(test.statistic, ".3g"),
            text(f"F({test.df[0]}, {test.df[1]})" if test.df[1] else f"χ²({test.df[0]})"),
            Entry(text=_p(test.p), key=test.p, numeric=True),
            text("rejected" if test.p < 0.05 else "not rejected"),
        )
        for test in law.tests
    )
    columns = ("hypothesis", "it would mean", "statistic", "distribution", "p", "at 5 %")
    return Table(caption="Tests", columns=columns, rows=rows, sortable=False)


def rivals(law: Law) -> Table:
    """Every form that was fitted to the same cells."""
    assert law.rivals is not None
    own = law.rivals.entries[0].name
    astray = not all(entry.converged for entry in law.rivals.entries)
    rows = tuple(
        (
            text(entry.title),
            text(entry.formula),
            number(entry.k),
            number(entry.delta_aicc, ".1f"),
            number(entry.rmse, ".3g"),
            *[number(entry.heldout.get(key), ".3g") for key in HELD_OUT],
            *([text("yes" if entry.converged else "no")] if astray else []),
        )
        for entry in law.rivals.entries
    )
    columns = ("form", "formula", "k", "ΔAICc", "RMSE", *HELD_OUT.values(), *["converged"] * astray)
    return Table(
        caption="Rival forms",
        columns=columns,
        rows=rows,
        strong=frozenset(i for i, entry in enumerate(law.rivals.entries) if entry.name == own),
        note="k counts free parameters without the variance. Errors are RMSE in nats per answer token on cell means; "
        "for the last three the form was fitted without these cells and then asked for them.",
    )


def rival_parameters(law: Law) -> Table:
    """What the forms were fitted to be."""
    assert law.rivals is not None
    rows = []
    for entry in law.rivals.entries:
        values = ", ".join(signs(f"{name} = {value:.4g}") for name, value in entry.parameters.items())
        rows.append((text(entry.title), text(entry.formula), text(values)))
    columns = ("form", "formula", "parameters")
    return Table(caption="Parameters of the rival forms", columns=columns, rows=tuple(rows), sortable=False)


_DESIGN = ("samples", "steps", "learning_rate", "token_visits")  # told once where all cells share them
_OPTIONAL: dict[str, tuple[str, Any]] = {
    "exact_match": ("exact match", percent),
    "token_accuracy": ("token accuracy", percent),
    "samples": ("samples", number),
    "steps": ("steps", number),
    "token_visits": ("token visits", number),
    "effective_parameters": ("parameters", number),
    "learning_rate": ("learning rate", lambda value: number(value, ".3g")),
    "seconds": ("seconds", lambda value: number(value, ".3g")),
}


def cells(law: Law) -> Table:
    """Every cell beside the law, the dropped ones with their reason."""
    kinds = {name: {getattr(cell, name) for cell in law.cells} for name in _OPTIONAL}
    told = {name for name, values in kinds.items() if values != {None}}
    same = [name for name in _DESIGN if name in told and len(kinds[name]) == 1]
    shown = [_OPTIONAL[name] + (name,) for name in _OPTIONAL if name in told and name not in same]
    several = len({cell.runs for cell in law.cells}) > 1
    partly = any(0 < cell.runs_used < cell.runs for cell in law.cells)
    rows = []
    for cell in law.cells:
        row = [number(cell.rank), number(cell.length)]
        row += [text("used" if cell.used else signs(_why(cell)))] + [number(cell.runs)] * several
        row += [number(cell.runs_used)] if partly else []
        row += [number(value, ".3f") for value in (cell.loss_initial, cell.loss_final, cell.delta, cell.predicted)]
        row += [number(cell.delta - cell.predicted, "+.3f")]
        row += [make(getattr(cell, name)) for _, make, name in shown]
        rows.append(tuple(row))
    columns = ["rank", "length", "in the fit", *["runs"] * several, *["runs used"] * partly]
    columns += ["initial loss", "final loss", "ΔL", "ΔL of the law", "residual", *[head for head, *_ in shown]]
    common = [] if several else [f"runs {law.cells[0].runs}"]
    shared = ", ".join(common + [f"{_OPTIONAL[name][0]} {_OPTIONAL[name][1](*kinds[name]).text}" for name in same])
    return Table(
        caption=f"All {len(law.cells)} cells",
        columns=tuple(columns),
        rows=tuple(rows),
        faint=frozenset(i for i, cell in enumerate(law.cells) if not cell.used),
        note="Means over the runs of a cell; losses in nats per answer token. Rows in grey were left out of the fit, "
        "those with a loss beside it because that is at or below ln 2 = 0.693."
        + (f" The same in every cell: {shared}." if shared else ""),
    )


def _why(cell: CellFit) -> str:
    """Why a cell was left out, without the threshold, which the note tells."""
    return (cell.reason or "left out").removesuffix(" against ln 2 = 0.693")


def card(law: Law) -> Table:
    """The fit card, as `memlaw fit` writes it to fit_card.json."""
    rows = tuple(
        (text(name), text(value if name == "source" else signs(value))) for name, value in _flat(fit_card(law))
    )
    return Table(caption="Fit card", columns=("item", "value"), rows=rows, sortable=False)


def settings(frame: pd.DataFrame) -> Table:
    """Whatever of the runs' own records tells how they were made, and how many kinds of it there are."""
    rows = []
    for name in _SETTINGS:
        if name in frame:
            kinds = list(dict.fromkeys(_plain(value) for value in frame[name] if _told(value)))
            if kinds:
                more = f" and {len(kinds) - 6} more" if len(kinds) > 6 else ""
                rows.append((text(name.replace("_", " ")), text(", ".join(kinds[:6]) + more)))
    if "started" in frame and (when := sorted(str(value) for value in frame["started"] if _told(value))):
        rows.append(
            (text("started"), text(moment(when[0]) + (f" to {moment(when[-1])}" if when[0] != when[-1] else "")))
        )
    return Table(caption="How the runs were made", columns=("item", "value"), rows=tuple(rows), sortable=False)


def moment(said: str) -> str:
    """A time in UTC to the minute; what is no ISO time of UTC stays as it is."""
    return _MOMENT.sub(r"\1 \2 UTC", said)


_MOMENT = re.compile(r"^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}):\d{2}(?:\.\d+)?(?:\+00:00|Z)$")
_SETTINGS = (
    "model", "task", "dataset", "method", "protocol", "targets", "layers", "init", "alpha", "learning_rate", "steps",
    "seed", "precision", "device", "mesh", "versions", "git",
)  # fmt: skip


def of_frame(frame: pd.DataFrame, caption: str, columns: dict[str, str]) -> Table:
    """These columns of an analysis under these heads; those that are not there, or say nothing at all, are left out."""
    told = frame[[name for name in columns if name in frame]].dropna(axis=1, how="all")
    rows = tuple(tuple(_entry(value) for value in row) for row in told.itertuples(index=False))
    return Table(caption=caption, columns=tuple(columns[name] for name in told.columns), rows=rows)


def _entry(value: Any) -> Entry:
    if isinstance(value, (bool, np.bool_)):
        return text("yes" if value else "no")
    if isinstance(value, (int, float, np.number)):
        return number(float(value))
    return text(value if _told(value) else None)


def _told(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) or bool(pd.notna(value))


def _flat(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        path = f"{above}{name}".replace("_", " ")
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}: ")
        else:
            yield path, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return _listed(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return signs(f"{value:.6g}")
    return "none" if value is None else str(value)


def _listed(values: Sequence[Any]) -> str:
    return ("; " if any(isinstance(value, dict) for value in values) else ", ").join(map(_plain, values)) or "none"


def _span(low: float | None, high: float | None) -> Entry:
    ends: Iterable[str] = ("open" if end is None else signs(f"{end:.4g}") for end in (low, high))
    return Entry(text=f"[{', '.join(ends)}]", key=low, numeric=True)


def _p(value: float) -> str:
    return signs(f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}") if value > 0 else "0"
