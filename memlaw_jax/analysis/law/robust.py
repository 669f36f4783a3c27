"""Huber's loss for the memory law: runs far from it count by their distance, no longer by its square.

Iteratively re-weighted least squares (Huber 1964; Holland and Welsch 1977): a run whose residual exceeds K robust
standard deviations gets the weight K/|residual|, and the law is fitted again. The standard deviation is 1.4826 times
the weighted median of the absolute residuals, taken anew at each round for each weighting, so a bootstrap replicate
re-weights by its own residuals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from memlaw_jax.analysis.law import varpro
from memlaw_jax.analysis.law.varpro import GRID, PARAMETERS, Solutions

K = 1.345  # 95 % as efficient as least squares where the noise is normal
MAD_TO_SD = 1.4826
ROUNDS = 60
SETTLED = 1e-9  # change of an exponent between rounds
# A median jumps from run to run, and the rounds may follow it for ever; from this one on the scale stays as it is.
FIXED_SCALE = 20
_VALLEYS = 5


def solve(
    u: Float[np.ndarray, " K"],
    v: Float[np.ndarray, " K"],
    y: Float[np.ndarray, " K"],
    weights: Float[np.ndarray, "M K"],
    *,
    warm: tuple[float, float] | None = None,
) -> tuple[Solutions, Float[np.ndarray, "M K"]]:
    """Huber solutions for M weightings of K runs, and the weights that least squares would need to give the same.

    Without `warm` (the full data's solution) the loss at the scale found is searched on the whole grid as well, and a
    deeper valley is taken where there is one. `sse` of the solutions is the re-weighted sum of squares.
    """
    found = varpro.solve(u, v, y, weights, warm=warm)
    if warm is not None:  # least squares may have been led astray; the full data's valley is tried as well
        ones = np.ones(len(weights))
        beside = varpro.solve(u, v, y, weights, start=(warm[0] * ones, warm[1] * ones))
        return _better(u, v, y, weights, _settle(u, v, y, weights, found), _settle(u, v, y, weights, beside))
    found, used = _settle(u, v, y, weights, found)
    for m in range(len(weights)):
        row = weights[m : m + 1]
        scale = _scale(_residuals(u, v, y, found)[m : m + 1], row)
        for alpha, beta in _valleys(u, v, y, row[0], float(scale[0])):
            start = varpro.solve(u, v, y, row, start=(np.array([alpha]), np.array([beta])))
            mine = _pick(found, [m]), used[m : m + 1].copy()
            best, its = _better(u, v, y, row, mine, _settle(u, v, y, row, start))
            _put(found, [m], best)
            used[m] = its[0]
    return found, used


def _settle(u, v, y, weights, found):
    """Re-weights and fits again, from where each solution is, until nothing moves."""
    found, used = _copy(found), weights.copy()
    scale = np.full(len(weights), np.nan)
    live = np.flatnonzero(np.isfinite(found.scale))
    for turn in range(ROUNDS):
        if not len(live):
            break
        here = _pick(found, live)
        residual = _residuals(u, v, y, here)
        if turn < FIXED_SCALE:
            scale[live] = _scale(residual, weights[live])
        used[live] = weights[live] * _weight(residual, scale[live])
        start = (here.alpha, here.beta)
        there = varpro.solve(u, v, y, used[live], start=start)
        _put(found, live, there)
        moved = np.maximum(np.abs(there.alpha - here.alpha), np.abs(there.beta - here.beta))
        live = live[moved > SETTLED]  # a solution that was lost is nan, and leaves too
    found.converged[live] = False
    return found, used


def objective(residual: Float[np.ndarray, "M K"], weights: Float[np.ndarray, "M K"], scale: Float[np.ndarray, " M"]):
    """Huber's loss at a scale: Σ w ρ(residual / scale), ρ(t) = t²/2 to K and K|t| − K²/2 beyond."""
    t = np.abs(residual) / scale[:, None]
    return (weights * np.where(t <= K, t * t / 2, K * t - K * K / 2)).sum(1)


def _better(u, v, y, weights, a, b):
    """Of two sets of solutions, row by row, that with the smaller loss at the smaller of the two scales."""
    (one, uses), (two, its) = a, b
    residuals = [_residuals(u, v, y, found) for found in (one, two)]
    scale = np.fmin(*[_scale(residual, weights) for residual in residuals])
    losses = [np.nan_to_num(objective(residual, weights, scale), nan=np.inf) for residual in residuals]
    second = losses[1] < losses[0] * (1 - 1e-9)
    _put(one, second, _pick(two, second))
    uses[second] = its[second]
    return one, uses


def _valleys(u, v, y, weights, scale):
    """(α, β) of the lowest local minima of Huber's loss on the grid, (c, b) free at each of its points."""
    a, b = (x.ravel() for x in np.meshgrid(GRID, GRID, indexing="ij"))
    z = np.exp(a[:, None] * u - b[:, None] * v)
    w = np.broadcast_to(weights, z.shape).copy()
    for _ in range(12):  # enough to tell valleys apart; they are polished afterwards
        total = w.sum(1, keepdims=True)
        z_mean, y_mean = (w * z).sum(1, keepdims=True) / total, (w @ y)[:, None] / total
        centred = z - z_mean
        c = (w * centred * (y - y_mean)).sum(1, keepdims=True) / (w * centred**2).sum(1, keepdims=True)
        residual = y - y_mean - c * centred
        w = weights * _weight(residual, np.full(len(z), scale))
    loss = objective(residual, np.broadcast_to(weights, z.shape), np.full(len(z), scale))
    surface = np.where(c[:, 0] > 0, loss, np.inf).reshape(len(GRID), len(GRID))
    return [(GRID[i], GRID[j]) for i, j in varpro.valleys(surface)[:_VALLEYS]]


def _residuals(u, v, y, found):
    z = np.exp(found.alpha[:, None] * u - found.beta[:, None] * v)
    return y - found.scale[:, None] * z - found.offset[:, None]


def _weight(residual, scale):
    with np.errstate(divide="ignore"):
        return np.minimum(1.0, K * scale[:, None] / np.maximum(np.abs(residual), 1e-300))


def _scale(residual, weights):
    """1.4826 × the weighted median of |residual|, row by row, without the four that the law can bring to zero."""
    size = np.abs(residual)
    order = np.argsort(size, axis=1)
    ordered, mass = np.take_along_axis(size, order, 1), np.take_along_axis(weights, order, 1).cumsum(1)
    place = (mass < 0.5 * (mass[:, -1:] + PARAMETERS)).sum(1)
    return np.maximum(MAD_TO_SD * ordered[np.arange(len(size)), np.minimum(place, size.shape[1] - 1)], 1e-12)


def _copy(found: Solutions) -> Solutions:
    return _pick(found, slice(None))


def _pick(found: Solutions, rows: Any) -> Solutions:
    return Solutions(**{name: np.array(value[rows]) for name, value in vars(found).items()})


def _put(found: Solutions, rows: Any, other: Solutions) -> None:
    for name, value in vars(other).items():
        vars(found)[name][rows] = value
