"""Training methods side by side at equal compute: means over seeds, paired differences, who leads at which rank.

The question is whether MemFT beats plain SFT (paper, Table 2). What is replicated is a seed: it draws the data, the
initialisation and the order of the samples, and everything that one seed gives hangs together. The records of one book
are therefore no independent trials (a Wilson interval over pooled records would be far too narrow), nor are the ranks
of one seed. So every interval here is Student's t over seeds:

- of a method's mean at one rank, for display;
- of the difference to the reference at one rank, over pairs of runs that share data, seed and every setting;
- of that difference over the ranks in transition, from each seed's mean over them: three numbers for three seeds.

A bootstrap over seeds × ranks would look narrower. In a simulation of equal methods with 3 seeds and 4 ranks it covered
the truth in 88 to 91 % of cases where all cells are independent and in 63 to 82 % where seeds matter; the t over the
seeds' means in 94 to 96 % of either. Its price is width (4.3 standard errors for 3 seeds), so the count of wins, ties
and losses over all pairs stands beside it.

Runs without any spread (all 0, all 1) have no interval: three equal outcomes of a coarse measure are no certainty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from memlaw_jax.analysis.comparison.methods_pairs import (
    MEASURES,
    Measure,
    filled,
    main_measure,
    matched,
    named,
    plain,
    prepared,
    split,
)
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.errors import UserError

SCHEMA = 1
TOLERANCE = 0.02
_TASK = ["task", "length"]
_SAME = 1e-12


@dataclass(frozen=True, kw_only=True)
class Methods:
    """Methods compared at equal token visits. Tables, a row each; `measure` is a column of the results.

    Values are shares of 1, and log₁₀ p for `p_min`; `low` and `high` are 95 % intervals over seeds, nan where there is
    none. Differences are method − reference.

    Attributes:
      names: the methods, the reference first.
      means: of each task, length, measure, rank and method over its `runs`; intervals clipped to [0, 1], or to p ≤ 1.
      differences: the same cells, over `pairs`, with wins, ties and losses among them.
      pooled: of each task, length, measure and method, over its `ranks` in transition (those where method and reference
        are not both 0 or both 1 in every seed; all, for `p_min`) that every seed has, after averaging over them in each
        of `seeds`. Wins, ties and losses are over all pairs of all ranks.
      leaders: of each task, length, measure and rank: the `best` methods by mean (several where they tie, none where
        all do), how far `ahead` of the next method (`next`) in the seeds that have all methods. That interval knows
        nothing of the best having been picked by its luck.
      crossing: early − late (by default `memft-sw` − `memft-ot`) at each task, length, measure and rank.
      main: of each task and length, the measure that its verdict is about: exact match where there are several samples,
        free-running token accuracy for a single one.
      unmatched: runs left out, their token visits being further than the tolerance from the reference's.
      unpaired: runs of other methods without a reference run to compare with.
      diverged: runs that diverged, as `read_frame` lists them.
    """

    reference: str
    names: tuple[str, ...]
    early: str
    late: str
    tolerance: float | None
    sources: tuple[str, ...]
    means: pd.DataFrame
    differences: pd.DataFrame
    pooled: pd.DataFrame
    leaders: pd.DataFrame
    crossing: pd.DataFrame
    main: dict[tuple[str, int], str]
    unmatched: tuple[dict[str, Any], ...]
    unpaired: tuple[dict[str, Any], ...]
    diverged: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types; null where a number is not known."""
        tables = {name: getattr(self, name) for name in ("means", "differences", "pooled", "leaders", "crossing")}
        main = [{"task": task, "length": length, "measure": name} for (task, length), name in self.main.items()]
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in ("reference", "early", "late", "tolerance")},
            "sources": list(self.sources),
            "units": "shares of 1; p_min as log10 p; differences are method - reference; 95 % intervals over seeds",
            "main": main,
            **{name: [plain(row) for row in table.to_dict("records")] for name, table in tables.items()},
            **{name: [plain(run) for run in getattr(self, name)] for name in ("unmatched", "unpaired", "diverged")},
        }


def compare_methods(
    source: Source | Iterable[Source],
    *,
    reference: str = "sft",
    early: str = "memft-sw",
    late: str = "memft-ot",
    tolerance: float | None = TOLERANCE,
) -> Methods:
    """Every method of the results against the reference, in pairs of equal task, length, rank, seed, data and settings.

    `source` is anything `read_frame` takes, with `method`, `seed` and `token_visits`. `tolerance` is how far the token
    visits of a pair may differ, as a share of the reference's (a curriculum's batches hold other samples); None
    compares whatever was spent. `early` and `late` are the methods said to lead at low and at high ranks.

    Raises `UserError` for bad input, a missing reference, and two runs of one method, cell and seed.
    """
    runs = prepared(read_frame(source), reference)
    diverged, sources = tuple(runs.attrs["diverged"]), tuple(runs.attrs["source"])
    runs, unmatched = matched(runs, reference, tolerance)
    others = runs[runs["method"] != reference]
    if others.empty:
        raise UserError(
            f"nothing can be compared with {reference}: the token visits of all {len(unmatched)} other runs are more "
            f"than {100 * (tolerance or 0):g} % from its own; train for as many, or pass tolerance=None"
        )
    names = tuple(dict.fromkeys(others["method"]))
    has_partner = runs["pair"].isin(runs.loc[runs["method"] == reference, "pair"])
    means, leaders, differences, pooled, crossing = ([] for _ in range(5))
    for measure, head, part in _each(runs):
        means += [head | row for row in _means(part, measure)]
        part = part[has_partner[part.index]]
        leaders += [head | row for row in _leaders(part)]
        for method in names:
            rows, over = _against(part, measure, reference, method)
            differences += [head | {"rank": rank, "method": method} | row for rank, row in rows.items()]
            pooled += [head | {"method": method} | over] if rows else []
        if {early, late} <= set(part["method"]):
            crossing += [head | {"rank": rank} | row for rank, row in _against(part, measure, late, early)[0].items()]
    return Methods(
        reference=reference,
        names=(reference, *names),
        early=early,
        late=late,
        tolerance=tolerance,
        sources=sources,
        means=pd.DataFrame(means),
        differences=pd.DataFrame(differences),
        pooled=pd.DataFrame(pooled),
        leaders=pd.DataFrame(leaders),
        crossing=pd.DataFrame(crossing),
        main={(str(task), int(length)): main_measure(part) for (task, length), part in split(runs, _TASK)},
        unmatched=unmatched,
        unpaired=tuple(named(others[~has_partner[others.index]])),
        diverged=diverged,
    )


def best_rates(source: Source | Iterable[Source]) -> pd.DataFrame:
    """Each method at its best learning rate: is a lead more than a rate that suits one method?

    A row for each task, length, rank and method: the `measure` of its verdict, the best mean over `runs` seeds, the
    `learning_rate` that gave it and all `rates` that were tried. Every method picks on the same data, so the best are
    all optimistic alike; of equal means the one with the worst token highest is taken, then the smallest rate.
    """
    frame = filled(read_frame(source))
    if "learning_rate" not in frame:
        raise UserError("the results have no column learning_rate, so there is no rate to choose")
    rows = []
    for (task, length), part in split(frame, _TASK):
        measure = MEASURES[main_measure(part)]
        part = part.assign(value=measure.values(part), worst=part.get("p_min", 0.0))
        for (rank, method), runs in split(part, ["rank", "method"]):
            groups = runs.groupby("learning_rate")
            by_rate = groups[["value", "worst"]].mean().sort_values(["value", "worst"], ascending=False, kind="stable")
            row = {"task": str(task), "length": int(length), "measure": measure.column, "rank": int(rank)}
            row |= {"method": method, "mean": float(by_rate["value"].iloc[0]), "learning_rate": float(by_rate.index[0])}
            rows.append(
                row | {"runs": int(groups.size()[by_rate.index[0]]), "rates": tuple(sorted(by_rate.index.tolist()))}
            )
    return pd.DataFrame(rows)


def _each(runs: pd.DataFrame) -> Iterator[tuple[Measure, dict[str, Any], pd.DataFrame]]:
    """Every task and length with every measure that it has, the measure's values as a column `value`."""
    for (task, length), part in split(runs, _TASK):
        for measure in MEASURES.values():
            if measure.column in part:
                told = part.assign(value=measure.values(part)).dropna(subset="value")
                if len(told):
                    yield measure, {"task": str(task), "length": int(length), "measure": measure.column}, told


def _means(part: pd.DataFrame, measure: Measure) -> Iterator[dict[str, Any]]:
    ends = (-np.inf, 0.0) if measure.logarithmic else (0.0, 1.0)
    for (rank, method), runs in split(part, ["rank", "method"]):
        values = runs["value"].to_numpy()
        low, high = np.clip(t_interval(values), *ends).tolist()
        row = {"rank": int(rank), "method": method, "runs": len(values), "mean": float(values.mean())}
        yield row | {"low": low, "high": high}


def _against(
    part: pd.DataFrame, measure: Measure, reference: str, method: str
) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """method − reference at each rank, and over the ranks in transition."""
    sides = [part[part["method"] == name].set_index("pair") for name in (reference, method)]
    both = sides[1].join(sides[0]["value"].rename("reference"), how="inner")
    both = both.assign(difference=both["value"] - both["reference"])
    rows = {int(rank): _row(pairs["difference"].to_numpy()) for rank, pairs in split(both, "rank")}
    ranks = [
        int(rank)
        for rank, pairs in split(both, "rank")
        if measure.logarithmic or not any((pairs[["value", "reference"]] == end).all(axis=None) for end in (0, 1))
    ]
    table = both.pivot(index="unit", columns="rank", values="difference")
    whole = [rank for rank in ranks if table[rank].notna().all()]
    over = table[whole].mean(axis=1).to_numpy() if whole else np.array([])
    low, high = t_interval(over)
    pool = {"ranks": tuple(whole), "incomplete": tuple(rank for rank in ranks if rank not in whole), "seeds": len(over)}
    pool |= {"mean": float(over.mean()) if len(over) else np.nan, "low": low, "high": high}
    counted = _row(both["difference"].to_numpy())
    return rows, pool | {name: counted[name] for name in ("pairs", "wins", "ties", "losses")}


def t_interval(values: Float[np.ndarray, " K"], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of independent values; nan for fewer than two, or without any spread."""
    if len(values) < 2 or np.ptp(values) <= _SAME:
        return np.nan, np.nan
    width = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - width), float(values.mean() + width)


def _row(apart: np.ndarray) -> dict[str, Any]:
    low, high = t_interval(apart)
    wins, losses = int((apart > _SAME).sum()), int((apart < -_SAME).sum())
    mean = float(apart.mean()) if len(apart) else np.nan
    count = {"wins": wins, "ties": len(apart) - wins - losses, "losses": losses}
    return {"pairs": len(apart), "mean": mean, "low": low, "high": high} | count


def _leaders(part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for rank, runs in split(part, "rank"):
        table = runs.pivot(index="unit", columns="method", values="value").dropna()
        if table.empty or table.shape[1] < 2:
            continue
        means = table.mean().sort_values(ascending=False, kind="stable")
        best = [name for name in means.index if means.iloc[0] - means[name] <= _SAME]
        rest = [name for name in means.index if name not in best]
        row = _row((table[best[0]] - table[rest[0]]).to_numpy() if rest else np.array([]))
        who = {"best": tuple(best) if rest else (), "next": rest[0] if rest else None, "ahead": row.pop("mean")}
        yield {"rank": int(rank)} | who | row
