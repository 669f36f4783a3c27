"""The memory law under a right-censored likelihood (Tobin 1958): a saturated run says that ΔL would be at least so.

y = c z + b + σ ε with normal ε, z as in `varpro`; a run whose final loss is at or below ln 2 counts as y ≥ cap,
cap = L_initial − ln 2. In (g, d, h) = (c/σ, b/σ, 1/σ) the log-likelihood is concave for fixed (α, β) (Olsen 1978), so a
grid over the exponents finds every valley, as for least squares. Damped Newton steps (without the curvature of z in the
exponents, which vanishes with the residuals) go to the bottom, for many weightings at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_ndtr

from memlaw_jax.analysis.law import varpro
from memlaw_jax.analysis.law.varpro import BOUNDS, GRID, Solutions

COARSE = GRID[::3]  # 14 candidates an exponent; the last is the upper bound
MAX_ITERATIONS = 200
EXACT = 1e-6  # of the spread of ΔL: data without noise would take σ to zero, and the likelihood to infinity
GAIN = 1e-12  # a step that would raise the log-likelihood by less (in nats, to first order) is the last
_VALLEYS = 4
G, D, H = 2, 3, 4  # places in (α, β, g, d, h)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """K runs: ln(r/r_ref), ln(ℓ/ℓ_ref), ΔL, and where `saturated` ΔL is replaced by the cap that it exceeds (nats)."""

    u: Float[np.ndarray, " K"]
    v: Float[np.ndarray, " K"]
    y: Float[np.ndarray, " K"]
    saturated: Bool[np.ndarray, " K"]


def solve(
    runs: Runs,
    weights: Float[np.ndarray, "M K"],
    *,
    warm: Float[np.ndarray, " 5"] | None = None,
    exponents: tuple[float | None, float | None] = (None, None),
    offset: bool = True,
) -> tuple[Solutions, Float[np.ndarray, "M 5"], Float[np.ndarray, " M"]]:
    """Maximum-likelihood (c, α, β, b) for M weightings, (α, β, g, d, h) of each, and its log-likelihood.

    `warm`, the full data's (α, β, g, d, h), is the only start where it is given. `exponents` holds α or β at a value;
    without `offset` b is zero. `sse` of the solutions is the weighted sum of squares of the runs that did not saturate.
    """
    free = np.array([exponents[0] is None, exponents[1] is None, True, offset, True])
    if warm is not None:
        owner, theta = np.arange(len(weights)), np.tile(warm, (len(weights), 1))
    else:
        owner, theta = _starts(runs, weights, exponents, free)
    theta, likelihood, arrived = _climb(runs, weights[owner], theta, free)
    best = np.full((len(weights), 5), np.nan)
    top, converged = np.full(len(weights), -np.inf), np.zeros(len(weights), bool)
    for i in np.argsort(likelihood, kind="stable"):
        if theta[i, G] > 0 and np.isfinite(likelihood[i]):
            best[owner[i]], top[owner[i]], converged[owner[i]] = theta[i], likelihood[i], arrived[i]
    alpha, beta, g, d, h = best.T
    with np.errstate(invalid="ignore"):
        z = np.exp(alpha[:, None] * runs.u - beta[:, None] * runs.v)
        residual = runs.y - (g[:, None] * z + d[:, None]) / h[:, None]
    edge = [np.isclose(x, bound, rtol=0, atol=1e-9) for x in (alpha, beta) for bound in BOUNDS]
    solutions = Solutions(
        scale=g / h,
        alpha=alpha,
        beta=beta,
        offset=d / h,
        sse=(weights * np.where(runs.saturated, 0.0, residual**2)).sum(1),
        sigma=1 / h,
        converged=converged,
        at_bound=np.logical_or.reduce(edge),
    )
    return solutions, best, top


def _starts(runs, weights, exponents, free):
    """(α, β, g, d, h) at the local maxima over the grid of exponents, and the weighting each belongs to."""
    grid = [COARSE if fixed is None else np.array([fixed]) for fixed in exponents]
    a, b = (x.ravel() for x in np.meshgrid(*grid, indexing="ij"))
    inner = free & np.array([False, False, True, True, True])
    owners, starts = [], []
    for m, row in enumerate(weights):
        theta = _linear(runs, row, a, b, offset=bool(free[D]))
        theta, likelihood, _ = _climb(runs, np.broadcast_to(row, (len(a), len(row))), theta, inner, most=25)
        likelihood = np.where(theta[:, G] > 0, likelihood, -np.inf)
        surface = -likelihood.reshape(len(grid[0]), len(grid[1]))
        for i, j in varpro.valleys(surface)[:_VALLEYS]:
            owners.append(m)
            starts.append(theta[i * len(grid[1]) + j])
    return np.array(owners, int), np.array(starts).reshape(-1, 5)


def _linear(runs, row, a, b, offset):
    """Least squares over (c, b), censored runs at their caps, as (α, β, g, d, h)."""
    z = np.exp(a[:, None] * runs.u - b[:, None] * runs.v)
    total = row.sum()
    z_mean, y_mean = ((z @ row) / total, (runs.y @ row) / total) if offset else (np.zeros(len(z)), 0.0)
    centred = z - z_mean[:, None]
    c = np.maximum((centred @ (row * (runs.y - y_mean))) / (centred**2 @ row), 1e-6)
    offsets = y_mean - c * z_mean
    residual = runs.y - c[:, None] * z - offsets[:, None]
    h = 1 / np.sqrt(np.maximum((residual**2 @ row) / total, 1e-20))
    return np.stack([a, b, c * h, offsets * h, h], axis=1)


def _likelihood(runs, weights, theta):
    alpha, beta, g, d, h = (x[:, None] for x in theta.T)
    eta = g * np.exp(alpha * runs.u - beta * runs.v) + d
    seen = np.log(h) - 0.5 * (h * runs.y - eta) ** 2
    return (weights * np.where(runs.saturated, log_ndtr(eta - h * runs.y), seen)).sum(1)


def _climb(runs, weights, theta, free, most=MAX_ITERATIONS):
    """Damped Newton from each start; coordinates that are not free stay, exponents stay in their box."""
    theta, weights = theta.copy(), np.asarray(weights)
    likelihood = _likelihood(runs, weights, theta)
    damping, arrived = np.full(len(theta), 1e-3), np.zeros(len(theta), bool)
    live = np.arange(len(theta))
    sharpest = 1 / (EXACT * max(float(np.ptp(runs.y)), 1e-300))
    for _ in range(most):
        gradient, curvature = _derivatives(runs, weights[live], theta[live])
        held = ~np.broadcast_to(free, gradient.shape)
        exponents = theta[live][:, :2]
        held[:, :2] |= (exponents <= BOUNDS[0]) & (gradient[:, :2] < 0) | (exponents >= BOUNDS[1]) & (
            gradient[:, :2] > 0
        )
        held[:, H] |= (theta[live][:, H] >= sharpest) & (gradient[:, H] > 0)
        gradient = np.where(held, 0.0, gradient)
        curvature = np.where(held[:, :, None] | held[:, None, :], 0.0, curvature)
        size = np.sqrt(np.maximum(np.einsum("mii->mi", curvature), 1e-30))
        scaled = curvature / (size[:, :, None] * size[:, None, :])
        scaled += np.eye(5) * np.where(held, 1.0, damping[live, None])[:, None, :]
        step = np.linalg.solve(scaled, (gradient / size)[..., None])[..., 0] / size
        step = np.where(held, 0.0, step)
        promised = (gradient * step).sum(1)
        there = theta[live] + step
        there[:, :2] = np.where(held[:, :2], exponents, np.clip(there[:, :2], *BOUNDS))
        there[:, H] = np.clip(there[:, H], theta[live][:, H] / 4, sharpest)
        after = _likelihood(runs, weights[live], there)
        better = after >= likelihood[live] - 1e-12 * np.abs(likelihood[live])
        theta[live[better]], likelihood[live[better]] = there[better], after[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 10, 1e-12), damping[live] * 10)
        arrived[live] = promised < GAIN
        live = live[(promised >= GAIN) & (damping[live] < 1e12)]
        if not len(live):
            break
    return theta, likelihood, arrived


def _derivatives(runs, weights, theta):
    """Gradient [M, 5] of the log-likelihood and its negative second derivatives [M, 5, 5], positive semi-definite."""
    alpha, beta, g, d, h = (x[:, None] for x in theta.T)
    z = np.exp(alpha * runs.u - beta * runs.v)
    eta = g * z + d
    x = eta - h * runs.y
    # φ/Φ in logarithms, which far below zero is −x and not 0/0.
    hazard = np.exp(-0.5 * x * x - 0.5 * np.log(2 * np.pi) - log_ndtr(x))
    slope = weights * np.where(runs.saturated, hazard, -x)
    bend = weights * np.where(runs.saturated, hazard * (hazard + x), 1.0)
    rows = np.stack([g * z * runs.u, -g * z * runs.v, z, np.ones_like(z), -np.broadcast_to(runs.y, z.shape)], axis=2)
    gradient = np.einsum("mk,mkp->mp", slope, rows)
    curvature = np.einsum("mk,mkp,mkq->mpq", bend, rows, rows, optimize=True)
    seen = (weights * ~runs.saturated).sum(1)
    gradient[:, H] += seen / theta[:, H]
    curvature[:, H, H] += seen / theta[:, H] ** 2
    return gradient, curvature
