"""The phase transition at p = ½ (PAPER.md, section 1, claim 2): what is certain above it and what happens below.

A token with more than half of the probability is the arg-max, so greedy decoding gets it right. That is arithmetic: in
float32, teacher-forced, a miss above ½ would be a bug. Free-running decoding in bfloat16 adds the same numbers in
another order, so there it is a question, and `check_half` answers it by precision. Positions count from 0 within a
sample; the first failure of greedy decoding is the first wrong teacher-forced arg-max, since until then both see the
same text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from memlaw_jax.analysis.tokens.spearman import Correlation, spearman
from memlaw_jax.analysis.tokens.tokens import Tokens

HALF = 0.5
BINS = 20
HISTOGRAM = 24  # positions up to which the histogram of failures has a bar for each
_NEVER = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class HalfCheck:
    """Tokens above and below ½ under one precision of the frozen weights.

    Attributes:
      missed_above: tokens with p > ½ whose teacher-forced arg-max is wrong.
      highest_missed: the largest p of a wrong token (None: none is wrong). Above it nothing was missed.
      right_below: tokens with p ≤ ½ that are right all the same: ½ is sufficient, not necessary.
      lowest_right: the smallest p of a right token (None: none is right).
      samples_decoded: samples of runs that were decoded greedily, free-running; the fields below are of these.
      free_above: tokens with p > ½ that decoding met with everything before them right.
      free_missed_above: those of them that it missed.
      free_highest_missed: the largest p of such a first failing token, whatever side of ½ it is on.
      free_elsewhere: samples whose decoding fails first at another position than the teacher-forced arg-max, or where
        only one of the two fails.
    """

    frozen: str
    tokens: int
    above: int
    missed_above: int
    highest_missed: float | None
    right_below: int
    lowest_right: float | None
    samples_decoded: int
    free_above: int
    free_missed_above: int
    free_highest_missed: float | None
    free_elsewhere: int

    @property
    def below(self) -> int:
        return self.tokens - self.above

    @property
    def enough(self) -> float | None:
        """The largest p at which anything was missed, teacher-forced or free: how large p must be."""
        known = [p for p in (self.highest_missed, self.free_highest_missed) if p is not None]
        return max(known) if known else None


def samples(tokens: Tokens, threshold: float = HALF) -> pd.DataFrame:
    """A row a sample of a run: what `Tokens.runs` says, `sample`, `tokens`, and, missing where there is none,

    `first_below` (first position with p ≤ threshold), `first_failure` (first wrong teacher-forced arg-max) and
    `first_free_failure` (first position where free-running decoding wrote another token) with `p_at_free_failure` and
    `above_before_failure` (tokens with p > ½ before it); and the numbers of tokens `below` the threshold and `wrong`.
    """
    table = tokens.table
    starts = np.flatnonzero(table["position"].to_numpy() == 0)
    p, position = table["p"].to_numpy(), table["position"].to_numpy()
    below, wrong = p <= threshold, ~table["right"].to_numpy()
    decoded = table["decoded"].to_numpy()
    free_wrong = ~table["free_right"].fillna(True).to_numpy(bool)
    made = table.iloc[starts][
        ["run", "cell_id", "method", "dataset", "frozen", "rank", "length", "seed", "decoded", "sample"]
    ].reset_index(drop=True)
    sizes = np.diff([*starts, len(table)])
    made["tokens"] = sizes
    for name, flag in (("first_below", below), ("first_failure", wrong), ("first_free_failure", free_wrong & decoded)):
        first = np.minimum.reduceat(np.where(flag, position, _NEVER), starts)
        made[name] = pd.array(first, dtype="Int64")
        made.loc[first == _NEVER, name] = pd.NA
    end = np.where(made["first_free_failure"].isna(), sizes, made["first_free_failure"].fillna(0)).astype(int)
    made["p_at_free_failure"] = np.where(end < sizes, p[starts + np.minimum(end, sizes - 1)], np.nan)
    reached = position < np.repeat(np.where(made["decoded"], end, 0), sizes)
    made["above_before_failure"] = np.add.reduceat(reached & (p > HALF), starts, dtype=np.int64)
    for name, flag in (("below", below), ("wrong", wrong)):
        made[name] = np.add.reduceat(flag, starts, dtype=np.int64)
    return made


def correlate(found: pd.DataFrame) -> Correlation:
    """ρ of first sub-threshold position and first failure over the samples that have both; clusters are cells."""
    both = found[found["first_below"].notna() & found["first_failure"].notna()]
    cell = both.groupby(["dataset", "method", "rank", "length"], observed=True).ngroup().to_numpy()
    return spearman(both["first_below"].to_numpy(int), both["first_failure"].to_numpy(int), cell)


def check_half(tokens: Tokens, found: pd.DataFrame) -> list[HalfCheck]:
    """The theorem, counted, for each precision of the frozen weights. `found` is what `samples` gave."""
    checks = []
    for name in dict.fromkeys(tokens.runs["frozen"]):
        table, mine = tokens.table[tokens.table["frozen"] == name], found[(found["frozen"] == name) & found["decoded"]]
        p, right = table["p"].to_numpy(), table["right"].to_numpy()
        first, free = mine["first_failure"], mine["first_free_failure"]
        at = mine["p_at_free_failure"].dropna().to_numpy()
        missed = int((at > HALF).sum())
        checks.append(
            HalfCheck(
                frozen=name,
                tokens=len(p),
                above=int((p > HALF).sum()),
                missed_above=int(((p > HALF) & ~right).sum()),
                highest_missed=float(p[~right].max()) if (~right).any() else None,
                right_below=int(((p <= HALF) & right).sum()),
                lowest_right=float(p[right].min()) if right.any() else None,
                samples_decoded=len(mine),
                free_above=int(mine["above_before_failure"].sum()) + missed,
                free_missed_above=missed,
                free_highest_missed=float(at.max()) if len(at) else None,
                free_elsewhere=int((first.fillna(-1) != free.fillna(-1)).sum()),
            )
        )
    return checks


def recall_vs_p(tokens: Tokens) -> pd.DataFrame:
    """Share of tokens whose arg-max is right in bins of p, with Wilson's 95 % interval, for each `frozen` precision.

    Bins are (low, high], so that p = ½ falls below ½. Tokens count as independent, which within a run they are not.
    """
    edges = np.linspace(0, 1, BINS + 1)
    rows = []
    for name in dict.fromkeys(tokens.runs["frozen"]):
        table = tokens.table[tokens.table["frozen"] == name]
        place = np.clip(np.searchsorted(edges, table["p"].to_numpy(), side="left") - 1, 0, BINS - 1)
        counted = np.bincount(place, minlength=BINS)
        right = np.bincount(place[table["right"].to_numpy()], minlength=BINS)
        for i in np.flatnonzero(counted):
            low, high = wilson(int(right[i]), int(counted[i]))
            rows.append(
                (name, edges[i], edges[i + 1], int(counted[i]), int(right[i]), right[i] / counted[i], low, high)
            )
    return pd.DataFrame(rows, columns=["frozen", "low", "high", "tokens", "right", "rate", "rate_low", "rate_high"])


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    z = float(ndtri(0.5 + level / 2))
    share, spread = successes / trials, z * z / trials
    middle = share + spread / 2
    half = z * np.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, float((middle - half) / (1 + spread))), min(1.0, float((middle + half) / (1 + spread)))


def failures(tokens: Tokens, found: pd.DataFrame) -> pd.DataFrame:
    """Where samples fail first and where tokens are wrong, by method and rank, in bins [low, high) of the position.

    `samples` counts those with a token in the bin, `first_failures` those that fail first in it, `tokens` and `wrong`
    the teacher-forced arg-max. Bins are the same for all, single positions in short samples and wider and wider in long
    ones, whose first failures crowd at the beginning; empty bins have no row.
    """
    longest = int(found["tokens"].max())
    edges = np.arange(longest + 1)
    if longest > HISTOGRAM:
        edges = np.unique(np.geomspace(1, longest + 1, HISTOGRAM // 2 + 5).round().astype(int)) - 1

    def low(position: pd.Series) -> np.ndarray:
        return edges[np.searchsorted(edges, position.to_numpy(int), side="right") - 1]

    table = tokens.table
    keys = ["method", "rank", "low"]
    per_token = table.assign(low=low(table["position"]), wrong=~table["right"])
    counted = per_token.groupby(keys, observed=True)["wrong"].agg(tokens="size", wrong="sum")
    present = per_token[["method", "rank", "low", "run", "sample"]].drop_duplicates()
    counted["samples"] = present.groupby(keys, observed=True).size()
    failed = found[found["first_failure"].notna()]
    failed = failed.assign(low=low(failed["first_failure"]))
    counted["first_failures"] = failed.groupby(keys, observed=True).size()
    made = counted.fillna({"first_failures": 0}).reset_index()
    made.insert(3, "high", edges[np.searchsorted(edges, made["low"]) + 1])
    return made.astype({"method": str, "first_failures": int})
