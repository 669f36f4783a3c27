"""From cells to ranks, and from ranks to what is said of all: the fullest cell, the median rank, the rule of thumb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from memlaw_jax.analysis.capacity.recall import longest_recalled
from memlaw_jax.analysis.comparison.methods import t_interval

_FEWEST_RANKS = 5


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Cells by whether parameters ≥ answer tokens, and whether they are recalled at the threshold."""

    follows_recalled: int
    follows_failed: int
    breaks_recalled: int
    breaks_failed: int


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Over the ranks; None where the results do not say.

    Attributes:
      bits_per_parameter: median over the ranks of what their fullest cell holds, by `Capacity.measure`.
      low, high: its 95 % percentile interval over resampled ranks; None for fewer than 5 ranks.
      least, most: of the ranks, in bits per parameter, and `most_rank` where the most is.
      bits_per_byte: the median per byte of the adapter as trained, of `byte_width` bytes a parameter.
      lower_bounds: ranks whose capacity may be larger: every length recalled, or most held at the longest length.
      tokens_per_parameter: the largest ℓ / parameters over the cells recalled, at `densest_rank`, `densest_length`.
      exposures: least and most times that a cell's tokens were each seen in training.
    """

    bits_per_parameter: float | None
    low: float | None
    high: float | None
    least: float | None
    most: float | None
    most_rank: int | None
    bits_per_byte: float | None
    byte_width: float | None
    lower_bounds: int
    tokens_per_parameter: float | None
    densest_rank: int | None
    densest_length: int | None
    exposures: tuple[float, float] | None


def rank_row(
    part: pd.DataFrame, runs: pd.DataFrame, measure: str, threshold: float, replicates: int, rng: np.random.Generator
) -> dict[str, Any]:
    """One row of `Capacity.ranks`."""
    row: dict[str, Any] = {"rank": int(part["rank"].iloc[0]), "lengths": len(part)}
    row["effective_parameters"] = part["effective_parameters"].mean()
    row |= _fullest(part, runs, measure)
    row["all_recalled"] = None if part["recalled"].isna().any() else bool(part["recalled"].all())
    row["lower_bound"] = bool(row["at_longest"]) or row["all_recalled"] is True
    best = part.iloc[int(part["gain_bits"].to_numpy().argmax())]
    row |= {"gain_bits": best["gain_bits"], "gain_bits_per_parameter": best["gain_bits_per_parameter"]}
    return row | longest_recalled(part, runs, threshold, replicates, rng)


def _fullest(part: pd.DataFrame, runs: pd.DataFrame, measure: str) -> dict[str, Any]:
    """The length at which most is held."""
    names = ("capacity_bits", "capacity_low", "capacity_high", "at_length", "exposures", "bits_per_parameter")
    known = part[part["bits"].notna()]
    if known.empty:
        return dict.fromkeys((*names, "bits_per_byte", "last_step"), np.nan) | {"at_longest": None}
    best = known.iloc[int(known["bits"].to_numpy().argmax())]
    here = runs[runs["length"] == best["length"]]
    values = here["excess_bits" if measure == "stored" else f"{measure}_bits"]
    ends = (0.0, best["source_bits"]) if measure == "stored" else (-np.inf, np.inf)
    low, high = np.clip(t_interval(values.dropna().to_numpy()), *ends).tolist()
    told = (best["bits"], low, high, int(best["length"]), best["exposures"], best["bits_per_parameter"])
    rest = {"bits_per_byte": best["bits_per_byte"], "at_longest": bool(best["length"] == known["length"].max())}
    return dict(zip(names, told, strict=True)) | rest | {"last_step": _last_step(known)}


def _last_step(known: pd.DataFrame) -> float:
    """d ln bits / d ln ℓ between the two longest lengths: 1 where nothing is lost yet, 0 where nothing is added."""
    if len(known) < 2:
        return np.nan
    (before, after), (shorter, longer) = (known[name].to_numpy(float)[-2:] for name in ("bits", "length"))
    return float(np.log(after / before) / np.log(longer / shorter)) if before > 0 and after > 0 else np.nan


def over_ranks(cells: pd.DataFrame, ranks: pd.DataFrame, replicates: int, rng: np.random.Generator) -> Overall:
    """The medians and extremes of the ranks, and the densest cell recalled."""
    per = ranks.dropna(subset="bits_per_parameter")
    values = per["bits_per_parameter"].to_numpy(float)
    low = high = None
    if len(values) >= _FEWEST_RANKS and replicates:
        drawn = rng.integers(len(values), size=(replicates, len(values)))
        low, high = (float(x) for x in np.percentile(np.median(values[drawn], axis=1), [2.5, 97.5]))
    bytewise = per["bits_per_byte"].dropna().to_numpy(float)
    widths = cells["byte_width"].dropna().unique()
    dense = cells[[x is True for x in cells["recalled"]]].dropna(subset="tokens_per_parameter")
    densest = dense.iloc[int(dense["tokens_per_parameter"].to_numpy().argmax())] if len(dense) else None
    seen = cells["exposures"].dropna()
    return Overall(
        bits_per_parameter=float(np.median(values)) if len(values) else None,
        low=low,
        high=high,
        least=float(values.min()) if len(values) else None,
        most=float(values.max()) if len(values) else None,
        most_rank=int(per["rank"].iloc[int(values.argmax())]) if len(values) else None,
        bits_per_byte=float(np.median(bytewise)) if len(bytewise) else None,
        byte_width=float(widths[0]) if len(widths) == 1 else None,
        lower_bounds=int(ranks["lower_bound"].sum()),
        tokens_per_parameter=None if densest is None else float(densest["tokens_per_parameter"]),
        densest_rank=None if densest is None else int(densest["rank"]),
        densest_length=None if densest is None else int(densest["length"]),
        exposures=(float(seen.min()), float(seen.max())) if len(seen) else None,
    )


def rule_of_thumb(cells: pd.DataFrame) -> Rule | None:
    """Of the cells that say both; None where none does."""
    told = cells[cells["recalled"].notna() & cells["follows_rule"].notna()]
    if told.empty:
        return None
    follows, recalled = told["follows_rule"].astype(bool), told["recalled"].astype(bool)
    return Rule(
        follows_recalled=int((follows & recalled).sum()),
        follows_failed=int((follows & ~recalled).sum()),
        breaks_recalled=int((~follows & recalled).sum()),
        breaks_failed=int((~follows & ~recalled).sum()),
    )
