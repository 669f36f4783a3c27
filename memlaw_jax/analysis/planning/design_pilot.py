"""A small pilot before a sweep, for the learning rate: one rate for all ranks would mix it up with capacity."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memlaw_jax.analysis.comparison.methods_pairs import split
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.planning.design_basis import Cost, Recipe, rounded, whole_numbers
from memlaw_jax.analysis.planning.design_table import Pairs
from memlaw_jax.errors import UserError

_RATES = (0.1, 0.3, 1.0, 3.0)  # what the pilot multiplies the sweep's rate by


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Runs with one seed that find a learning rate for each rank before the sweep; `cost` in the design's unit."""

    ranks: tuple[int, ...]
    length: int
    rates: tuple[float, ...]
    cost: float


def plan_pilot(cells: Pairs, recipe: Recipe, cost: Cost) -> Pilot:
    """The least, middle and greatest rank at the length nearest the middle that has all three."""
    ranks, lengths = (sorted({cell[k] for cell in cells}) for k in (0, 1))
    three = (ranks[0], ranks[len(ranks) // 2], ranks[-1])
    shared = [n for n in lengths if all((r, n) in cells for r in three)] or [lengths[-1]]
    middle = math.sqrt(lengths[0] * lengths[-1])
    length = min(shared, key=lambda n: abs(math.log(n / middle)))
    rates = tuple(rounded(factor * recipe.learning_rate) for factor in _RATES)
    spent = len(rates) * sum(float(cost.of(rank, length)) for rank in three)
    return Pilot(ranks=three, length=length, rates=rates, cost=rounded(spent, 9))


def pilot_rates(results: Source | Iterable[Source], ranks: Sequence[int]) -> dict[int, float]:
    """A learning rate for each rank from a pilot's results: the best at the pilot's ranks, between them linear in ln r.

    The best rate is that of the lowest mean final loss, which is what the law is about: `best_rates`, made to compare
    methods, judges by recall, which is none at all in most cells where the law holds. Three digits. Warns where the
    best is the least or the greatest rate tried. Raises `UserError` for results of several methods, tasks or lengths.
    """
    frame = read_frame(results)
    if "learning_rate" not in frame:
        raise UserError("the pilot's results have no column learning_rate, so there is no rate to choose")
    for name in ("method", "task", "length"):
        if name in frame and frame[name].nunique() > 1:
            kinds = ", ".join(map(str, sorted(frame[name].unique())))
            raise UserError(f"the pilot's results hold several of {name} ({kinds}); give one, the rates are for it")
    best: dict[int, float] = {}
    for rank, runs in split(frame, "rank"):
        by_rate = runs.groupby("learning_rate")["loss_final"].mean().sort_index()
        best[int(rank)] = rate = float(by_rate.index[int(by_rate.to_numpy().argmin())])
        if len(by_rate) < 3 or rate in (by_rate.index[0], by_rate.index[-1]):
            warnings.warn(
                f"rank {rank}'s best learning rate, {rate:g}, is at the edge of those tried; try more beyond it",
                stacklevel=2,
            )
    at, rates = np.log(list(best)), np.log(list(best.values()))
    return {rank: rounded(math.exp(np.interp(math.log(rank), at, rates))) for rank in whole_numbers("ranks", ranks)}
