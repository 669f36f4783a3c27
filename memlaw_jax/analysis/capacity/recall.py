"""The longest length that a rank recalls, the bracket of lengths tried in which recall ends, and its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

_SAME = 1e-9  # means of exact matches are compared up to rounding


def recalled(match: Any, threshold: float) -> Any:
    """Whether exact match reaches the threshold, of an array or a column."""
    return match >= threshold - _SAME


def longest_recalled(
    part: pd.DataFrame, runs: pd.DataFrame, threshold: float, replicates: int, rng: np.random.Generator
) -> dict[str, Any]:
    """`recalled_length` to `tokens_per_parameter` of a rank's row, from its cells `part` and its `runs`."""
    names = ("recalled_length", "bracket_low", "bracket_high", "recalled_low", "recalled_high", "tokens_per_parameter")
    part, runs = part[part["exact_match"].notna()], runs[runs["exact_match"].notna()]
    if part.empty:
        return dict.fromkeys(names, np.nan) | {"monotone": None}
    lengths, match = part["length"].to_numpy(), part["exact_match"].to_numpy()
    kept = recalled(match, threshold)
    longest = int(lengths[kept].max(initial=0))
    low, high = bracket(lengths, kept)
    ends = np.array([[low, high]])
    if replicates and len(runs) > len(part):
        place = np.searchsorted(lengths, runs["length"].to_numpy())
        weights = _resampled(place, runs["seed"].to_numpy(), replicates, rng)
        ends = np.array(_brackets(weights, place, lengths, runs["exact_match"].to_numpy(), threshold))
    interval = (np.percentile(ends[:, 0], 2.5, method="lower"), np.percentile(ends[:, 1], 97.5, method="higher"))
    # The results' own bracket belongs in it: few draws of few seeds may all miss one of its ends.
    interval = (min(float(interval[0]), low), max(float(interval[1]), high))
    # A size that is not known leaves nan; no length recalled leaves 0.
    dense = longest / part["effective_parameters"].mean()
    row = dict(zip(names, (longest, low, high, *interval, dense), strict=True))
    return row | {"monotone": bool((np.diff(kept.astype(int)) <= 0).all())}


def bracket(lengths: Int[np.ndarray, " K"], recalled: Bool[np.ndarray, " K"]) -> tuple[float, float]:
    """Where recall ends, of ascending lengths: [end of the unbroken series of recalled ones, next after the last).

    (0, shortest) where none is recalled; the upper end is infinite where the longest is. Where recall comes and goes,
    all of its coming and going lies between the two.
    """
    first_failed = int(np.argmin(recalled)) if not recalled.all() else len(lengths)
    after_last = int(np.flatnonzero(recalled).max(initial=-1)) + 1
    low = float(lengths[first_failed - 1]) if first_failed else 0.0
    return low, float(lengths[after_last]) if after_last < len(lengths) else float("inf")


def _resampled(
    place: Int[np.ndarray, " N"], seed: Shaped[np.ndarray, " N"], replicates: int, rng: np.random.Generator
) -> Int[np.ndarray, "M N"]:
    """How often each run is drawn: with its seed, at every length alike; within its cell, where seeds have no name."""
    if not pd.isna(seed).any():
        _, which = np.unique(np.array([str(name) for name in seed]), return_inverse=True)
        count = int(which.max()) + 1
        drawn: Int[np.ndarray, "M N"] = rng.multinomial(count, np.full(count, 1 / count), size=replicates)[:, which]
        return drawn
    weights = np.zeros((replicates, len(place)), int)
    for cell in np.unique(place):
        mine = np.flatnonzero(place == cell)
        weights[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=replicates)
    return weights


def _brackets(
    weights: Int[np.ndarray, "M N"],
    place: Int[np.ndarray, " N"],
    lengths: Int[np.ndarray, " K"],
    match: Float[np.ndarray, " N"],
    threshold: float,
) -> list[tuple[float, float]]:
    """The bracket of each resample; a length none of whose seeds were drawn counts as not tried in it."""
    member = (place[:, None] == np.arange(len(lengths))[None, :]).astype(float)
    drawn = weights @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = recalled((weights * match) @ member / drawn, threshold)
    return [bracket(lengths[n > 0], yes[n > 0]) for n, yes in zip(drawn, kept, strict=True)]
