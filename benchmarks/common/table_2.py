"""Rows of the paper's Table 2: its numbers, ours, and a PyTorch run's, for each rank and method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from common.given import Given
from common.numbers import mean_interval, number, paper, percent
from common.table import Row

LISTED = 3  # lengths that the table tells one by one; methods.md tells all


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One half of Table 2.

    Attributes:
      task: `long_context` or `phonebook`, as in the names of the configs.
      measure: the column that the table is about, and `words` what it is.
      other: the column to read where a PyTorch run has no `measure`.
      recall: the training curve that tells recall.
      twins: our methods, by the column of Table 2 that each stands beside.
      scale: the paper's scale, for the first rows.
      tiny: overrides of the smallest scale.
      control: overrides of the control: the cells in transition.
    """

    task: str
    measure: str
    words: str
    other: str
    recall: str
    twins: Mapping[str, str]
    scale: Mapping[str, str]
    tiny: Sequence[str]
    control: Sequence[str]


def rows(given: Given, frame: pd.DataFrame, setting: Setting) -> list[Row]:
    """The mean over the lengths beside the paper's, then each length where there are few."""
    known = paper()["table_2"][setting.task][given.family if given.scale == "paper" else "qwen"]
    torch, methods = _torch(given, setting), list(dict.fromkeys(frame["method"]))
    lengths = sorted({int(length) for length in frame["length"]})
    several = ", mean over ℓ" if len(lengths) > 1 else ""
    made = []
    for rank in sorted({*map(int, frame["rank"]), *known["ranks"]}):
        for method in methods:
            theirs = known.get(setting.twins.get(method, ""))
            told = theirs[known["ranks"].index(rank)] if theirs and rank in known["ranks"] else None
            row = Row(
                section=f"{setting.words}, %{several}",
                what=f"rank {rank}, {method}",
                paper=number(told),
                ours=_percent(frame, setting.measure, rank, method, len(lengths)),
                pytorch=_percent(torch, setting.measure, rank, setting.twins.get(method, "")),
            )
            made += [row] if row.paper or row.ours or row.pytorch else []
    for length in lengths if 1 < len(lengths) <= LISTED else []:
        ours, theirs = (table[table["length"] == length] for table in (frame, torch))
        for rank in sorted(set(map(int, ours["rank"]))):
            made += [
                Row(
                    section=f"{setting.words}, %, ℓ = {length}",
                    what=f"rank {rank}, {method}",
                    ours=_percent(ours, setting.measure, rank, method),
                    pytorch=_percent(theirs, setting.measure, rank, setting.twins.get(method, "")),
                )
                for method in methods
            ]
    return made


def _percent(frame: pd.DataFrame, measure: str, rank: int, method: str, lengths: int = 1) -> str:
    """Mean over seeds of each seed's mean over lengths; seeds that lack one of the lengths are left out."""
    runs = frame[(frame["rank"] == rank) & (frame["method"] == method)].groupby("seed")
    values = runs[measure].mean()[runs["length"].nunique() >= lengths]
    return percent(*mean_interval(values))


def _torch(given: Given, setting: Setting) -> pd.DataFrame:
    """The PyTorch run with the measure filled in, under the paper's names of its methods; no rows without one."""
    frame, columns = given.pytorch(), ["rank", "length", "method", "seed", setting.measure]
    if frame is None:
        return pd.DataFrame(columns=columns)
    names = [name for name in (setting.measure, setting.other) if name in frame.columns]
    usual: dict[str, Any] = {"method": "sft", "seed": 0, setting.measure: frame[names[0]] if names else math.nan}
    frame = frame.assign(**{name: value for name, value in usual.items() if name not in frame.columns})
    return frame[columns].assign(method=frame["method"].replace(dict(setting.twins)))


def fallen_back(given: Given, setting: Setting) -> list[str]:
    """In words, where the PyTorch run has the other measure."""
    frame = given.pytorch()
    if frame is None or setting.measure in frame.columns or setting.other not in frame.columns:
        return []
    return [
        f"The PyTorch run has no {setting.measure}: its column holds {setting.other}, teacher-forced, which is higher."
    ]
