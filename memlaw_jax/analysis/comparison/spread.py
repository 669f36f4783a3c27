"""How far the runs of a cell differ, and intervals for the difference of two cells' means.

With two or three seeds a cell's own variance is hardly known, and one variance for the whole grid is wrong: seeds of a
saturated cell differ far less than those of a hard one. So every cell's variance is shrunk towards the grid's as far as
the cells' variances agree with each other (the moderated t of Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3, article 3).
With few cells there is nothing to learn from the others and it is the ordinary t: paired, or Welch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special, stats

# Below this the variance of a variance is itself unknown.
FEWEST_TO_SHARE = 5
# nats²; runs that agree to the last digit (loss 0, or the same run again) say nothing of how others spread.
_SAME = 1e-16


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A variance for each cell and the degrees of freedom behind it, 0 where nothing is known."""

    variance: Float[np.ndarray, " K"]
    freedom: Float[np.ndarray, " K"]


def spread(groups: Sequence[np.ndarray]) -> Spread:
    """The moderated variance between the runs of each cell; a cell with one run has the grid's, if that is known."""
    freedom = np.array([len(runs) - 1.0 for runs in groups])
    own = np.array([runs.var(ddof=1) if len(runs) > 1 else 0.0 for runs in groups])
    moves = own > _SAME
    common, weight = _prior(own[moves], freedom[moves])
    share = np.ones(len(groups)) if np.isinf(weight) else weight / np.maximum(weight + freedom, 1e-300)
    # The grid's variance is itself known no better than all its runs together tell.
    total = np.minimum(weight + freedom, freedom.sum())
    return Spread(variance=share * common + (1 - share) * own, freedom=total)


def _prior(variance: np.ndarray, freedom: np.ndarray) -> tuple[float, float]:
    """The grid's variance and its degrees of freedom, by the moments of ln s² (Smyth 2004, section 6.2)."""
    if len(variance) < FEWEST_TO_SHARE:
        return 0.0, 0.0
    half = freedom / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - special.polygamma(1, half).mean()
    # trigamma falls from 1e12 at 1e-6 to 1e-6 at 1e6
    if excess <= 1e-6:
        return float((freedom * variance).sum() / freedom.sum()), np.inf
    half_weight = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, 2e6)
    common = np.exp(logs.mean() + special.digamma(half_weight) - np.log(half_weight))
    return float(common), 2 * half_weight


def difference_interval(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], paired: Bool[np.ndarray, " K"], level: float = 0.95
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Ends of the interval for mean(b) − mean(a) of each cell; nan where no spread is known.

    Runs of a paired cell stand in the same order on both sides, and their differences are what spreads. Elsewhere the
    sides spread apart (Welch); a side of which nothing is known is taken to spread like the other.
    """
    squared, freedom = _welch(a, b)
    where = np.flatnonzero(paired).tolist()
    together = spread([b[i] - a[i] for i in where])
    for i, variance, behind in zip(where, together.variance, together.freedom, strict=True):
        if behind > 0:
            squared[i], freedom[i] = variance / len(a[i]), behind
    known = freedom > 0
    width = np.full(len(a), np.nan)
    width[known] = stats.t.ppf((1 + level) / 2, freedom[known]) * np.sqrt(squared[known])
    centre = np.array([y.mean() - x.mean() for x, y in zip(a, b, strict=True)])
    return centre - width, centre + width


def _welch(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Squared standard error of the difference and its degrees of freedom (Satterthwaite)."""
    sides = [spread(a), spread(b)]
    variance = [np.where(s.freedom > 0, s.variance, o.variance) for s, o in zip(sides, sides[::-1], strict=True)]
    squared = [v / np.array([len(runs) for runs in groups]) for v, groups in zip(variance, (a, b), strict=True)]
    total = squared[0] + squared[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        both = total**2 / sum(q**2 / s.freedom for q, s in zip(squared, sides, strict=True))
    both = np.where(total > 0, both, sides[0].freedom + sides[1].freedom)
    one = np.maximum(sides[0].freedom, sides[1].freedom)
    known = np.minimum(sides[0].freedom, sides[1].freedom) > 0
    return total, np.where(known, both, one)
