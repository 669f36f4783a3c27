"""Spearman's ρ of tied, clustered positions, with a bootstrap interval that resamples whole clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import sparse

RESAMPLES = 1000
FEWEST_CLUSTERS = 5


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """ρ over `n` pairs; None where a side does not vary. The 95 % interval is None for fewer than 5 clusters."""

    n: int
    clusters: int
    rho: float | None
    low: float | None = None
    high: float | None = None


def spearman(
    x: Int[np.ndarray, " n"],
    y: Int[np.ndarray, " n"],
    cluster: Shaped[np.ndarray, " n"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Correlation:
    """Rank correlation of `x` and `y`, ties at their mean rank.

    Samples of one cell share their adapter or, between seeds, their data, so pairs are drawn a `cluster` at a time.
    Equal pairs are held once with their number, which makes a resample cheap however many samples there are.
    """
    if len(x) < 2:
        return Correlation(n=len(x), clusters=len(np.unique(cluster)), rho=None)
    pairs, pair = np.unique(np.stack([x, y], axis=1), axis=0, return_inverse=True)
    names, group = np.unique(cluster, return_inverse=True)
    counts = sparse.csr_array(
        (np.ones(len(x)), (group.ravel(), pair.ravel())), shape=(len(names), len(pairs))
    )  # duplicates add up
    left, right = (np.unique(side, return_inverse=True)[1].ravel() for side in pairs.T)
    rho = _weighted(left, right, np.asarray(counts.sum(axis=0)).ravel())
    found = Correlation(n=len(x), clusters=len(names), rho=rho)
    if rho is None or len(names) < FEWEST_CLUSTERS:
        return found
    rng = np.random.default_rng(seed)
    drawn = (
        _weighted(left, right, counts.T @ rng.multinomial(len(names), np.full(len(names), 1 / len(names))))
        for _ in range(resamples)
    )
    known = [value for value in drawn if value is not None]
    if len(known) < 0.9 * resamples:
        return found
    low, high = np.percentile(known, [2.5, 97.5])
    return Correlation(n=len(x), clusters=len(names), rho=rho, low=float(low), high=float(high))


def _weighted(x: Int[np.ndarray, " U"], y: Int[np.ndarray, " U"], weight: Float[np.ndarray, " U"]) -> float | None:
    """ρ of pairs of codes that stand for `weight` pairs each."""
    ranks = []
    for codes in (x, y):
        counts = np.bincount(codes, weight)
        middle = np.cumsum(counts) - counts / 2
        ranks.append(middle[codes] - weight.sum() / 2)  # centred: the mean of mid-ranks is half the number of pairs
    a, b = ranks
    scale = np.sqrt((weight * a * a).sum() * (weight * b * b).sum())
    return float((weight * a * b).sum() / scale) if scale > 0 else None
