"""Weighted least squares for y = c · z + b, z = exp(α u − β v), globally, for many weightings at once.

For fixed (α, β) the model is linear in (c, b), so the search is over two numbers only (variable projection: Golub and
Pereyra 1973). With u = ln(r/r_ref) and v = ln(ℓ/ℓ_ref) the regressor z is (r/r_ref)^α (ℓ/ℓ_ref)^(−β), close to one in
the middle of the design, which keeps c and b comparable and the problem well scaled. A grid over (α, β) finds the
valleys: every cell of the grid costs one column of three matrix products, so 400 bootstrap weightings are as cheap as
a handful of fits. Levenberg-Marquardt on the projected residual (Kaufman's Jacobian, whose gradient is exact) then goes
to the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

PARAMETERS = 4
# Exponents outside this box are a sign that the data do not follow the law at all; near its lower edge z becomes a
# straight line in the logarithms and c, b run away to ± infinity.
BOUNDS = (0.01, 2.5)
# Evenly spaced in the square root: steps of 0.008 near 0 and 0.12 near 2.5. The valleys are wider than that.
GRID = np.linspace(BOUNDS[0] ** 0.5, BOUNDS[1] ** 0.5, 40) ** 2
GRID[[0, -1]] = BOUNDS  # exactly
MAX_ITERATIONS = 200
MAX_VALLEYS = 8
# The polish has arrived when the residual is orthogonal to both tangent directions to this cosine.
ORTHOGONAL = 1e-7
# ... or when it explains y to this share of its weighted sum of squares: then only rounding is left (float64: 2e-16,
# squared and summed over cells).
EXACT = 1e-24
# ... or when a step would move the exponents by less than this (data rounded to nine digits leave residuals so small
# that their own rounding spoils the cosine).
STILL = 1e-11
# ... or when a full step would lower the sum of squares by less than this share of it: where residuals are as large as
# ΔL itself, steps circle the minimum and the cosine is out of reach.
SETTLED = 1e-12


@dataclass(frozen=True, kw_only=True)
class Solutions:
    """One solution for each of M weightings.

    `sse` is the weighted residual sum of squares, `sigma` the standard deviation that has the greatest likelihood.
    Where no (α, β) on the grid gives a positive c, the row is nan: ΔL does not rise with rank or fall with length.
    """

    scale: Float[np.ndarray, " M"]
    alpha: Float[np.ndarray, " M"]
    beta: Float[np.ndarray, " M"]
    offset: Float[np.ndarray, " M"]
    sse: Float[np.ndarray, " M"]
    sigma: Float[np.ndarray, " M"]
    converged: Bool[np.ndarray, " M"]
    at_bound: Bool[np.ndarray, " M"]


def solve(
    u: Float[np.ndarray, " K"],
    v: Float[np.ndarray, " K"],
    y: Float[np.ndarray, " K"],
    weights: Float[np.ndarray, "M K"],
    *,
    warm: tuple[float, float] | None = None,
    start: tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]] | None = None,
    grid: tuple[Float[np.ndarray, " G"], Float[np.ndarray, " H"]] = (GRID, GRID),
    offset: bool = True,
) -> Solutions:
    """Least-squares (c, α, β, b) for K rows under each of M weightings, from every valley of the grid.

    `warm` adds one start (α, β), the full data's solution, and then only the deepest valley is polished beside it:
    what a bootstrap needs. `start` gives each weighting its own start and looks nowhere else: what re-weighting needs.
    `grid` has the candidates of α and of β; their ends are the bounds, so one candidate holds an exponent fixed.
    Without `offset` b is zero. Deterministic; no randomness is used.
    """
    if start is None:
        owner, alpha, beta = _starts(_grid_profile(u, v, y, weights, grid, offset), grid, warm)
    else:
        owner, (alpha, beta) = np.arange(len(weights)), start

    out = {name: np.full(len(weights), np.nan) for name in ("scale", "alpha", "beta", "offset")}
    sse = np.full(len(weights), np.inf)
    converged = np.zeros(len(weights), bool)
    if len(owner):
        box = np.array([[candidates[0], candidates[-1]] for candidates in grid]).T  # [low and high, α and β]
        alpha, beta, arrived = _polish(u, v, y, weights[owner], alpha, beta, box, offset)
        state = _project(u, v, y, weights[owner], alpha, beta, offset)
        order = np.argsort(state.sse, kind="stable")[::-1]  # the best start of each owner is written last
        order = order[state.scale[order] > 0]
        rows = owner[order]
        out["scale"][rows], out["offset"][rows] = state.scale[order], state.offset[order]
        out["alpha"][rows], out["beta"][rows] = alpha[order], beta[order]
        sse[rows], converged[rows] = state.sse[order], arrived[order]
    edge = [np.isclose(out[name], bound, rtol=0, atol=1e-9) for name in ("alpha", "beta") for bound in BOUNDS]
    sigma = np.sqrt(sse / weights.sum(1))
    return Solutions(**out, sse=sse, sigma=sigma, converged=converged, at_bound=np.logical_or.reduce(edge))


def tangents(
    u: Float[np.ndarray, " K"], v: Float[np.ndarray, " K"], scale: float, alpha: float, beta: float
) -> Float[np.ndarray, "K 4"]:
    """Derivatives of the model by (c, α, β, b): what standard errors and ellipses are made of."""
    z = np.exp(alpha * u - beta * v)
    return np.stack([z, scale * z * u, -scale * z * v, np.ones_like(z)], axis=1)


def _starts(profile, grid, warm):
    """The weighting, α and β of every start."""
    owners, alphas, betas = [], [], []
    for m, surface in enumerate(profile):
        places = valleys(surface) if warm is None else _deepest(surface)
        owners += [m] * len(places)
        alphas += [grid[0][i] for i, _ in places]
        betas += [grid[1][j] for _, j in places]
        if warm is not None and places:
            owners, alphas, betas = [*owners, m], [*alphas, warm[0]], [*betas, warm[1]]
    return np.array(owners, int), np.array(alphas), np.array(betas)


def _grid_profile(u, v, y, weights, grid, offset):
    """Least sum of squares over (c ≥ 0, b) at each grid point, [M, G, H]; inf where c would be negative."""
    y = y - y.mean() if offset else y
    a, b = np.meshgrid(*grid, indexing="ij")
    z = np.exp(a.ravel()[:, None] * u - b.ravel()[:, None] * v)  # [G H, K]
    total = weights.sum(1, keepdims=True)
    y_mean = (weights @ y)[:, None] / total if offset else np.zeros_like(total)
    sz = weights @ z.T if offset else np.zeros((len(weights), len(z)))
    szz = weights @ (z * z).T - sz**2 / total
    szy = (weights * y) @ z.T - sz * y_mean
    syy = (weights @ (y * y))[:, None] - total * y_mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        profile = np.where((szy > 0) & (szz > 0), syy - szy**2 / szz, np.inf)
    return profile.reshape(len(weights), *a.shape)


def _deepest(surface):
    place = np.unravel_index(np.argmin(surface), surface.shape)
    return [place] if np.isfinite(surface[place]) else []


def valleys(surface):
    """Grid points no higher than their eight neighbours, the deepest first."""
    padded = np.pad(surface, 1, constant_values=np.inf)
    tall, wide = surface.shape
    around = [padded[1 + i : 1 + i + tall, 1 + j : 1 + j + wide] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    low = np.isfinite(surface) & (surface <= np.minimum.reduce(around))
    places = sorted(zip(*np.nonzero(low), strict=True), key=lambda place: surface[place])
    return places[:MAX_VALLEYS]


@dataclass(frozen=True)
class _State:
    scale: np.ndarray
    offset: np.ndarray
    sse: np.ndarray
    residual: np.ndarray
    z: np.ndarray  # [M, K], centred


def _project(u, v, y, weights, alpha, beta, offset):
    total = weights.sum(1)
    raw = np.exp(alpha[:, None] * u - beta[:, None] * v)
    z_mean = (weights * raw).sum(1) / total if offset else np.zeros(len(weights))
    y_mean = (weights @ y) / total if offset else np.zeros(len(weights))
    z, centred = raw - z_mean[:, None], y - y_mean[:, None]
    scale = (weights * z * centred).sum(1) / (weights * z * z).sum(1)
    residual = centred - scale[:, None] * z
    return _State(scale, y_mean - scale * z_mean, (weights * residual**2).sum(1), residual, z)


def _tangent_pair(u, v, weights, state, alpha, beta, offset):
    """Kaufman's Jacobian of the fitted values by (α, β), [M, 2, K]: tangents with c and b projected out."""
    raw = state.scale[:, None] * np.exp(alpha[:, None] * u - beta[:, None] * v)
    pair = np.stack([raw * u, -raw * v], axis=1)
    w = weights[:, None, :]
    if offset:
        pair = pair - (w * pair).sum(2, keepdims=True) / weights.sum(1)[:, None, None]
    z = state.z[:, None, :]
    return pair - z * ((w * pair * z).sum(2) / (weights * state.z**2).sum(1)[:, None])[..., None]


def _polish(u, v, y, weights, alpha, beta, box, offset):
    """Damped Gauss-Newton on the projected residual inside the box; rows that have arrived drop out."""
    theta = np.stack([alpha, beta], axis=1)
    arrived = np.zeros(len(theta), bool)
    damping = np.full(len(theta), 1e-3)
    live = np.arange(len(theta))
    spread = _project(u, v, y, weights, theta[:, 0], theta[:, 1], offset)
    syy = spread.sse + (weights * (spread.scale[:, None] * spread.z) ** 2).sum(1)
    for _ in range(MAX_ITERATIONS):
        w, here = weights[live], theta[live]
        state = _project(u, v, y, w, here[:, 0], here[:, 1], offset)
        pair = _tangent_pair(u, v, w, state, here[:, 0], here[:, 1], offset)
        gradient = (w[:, None] * pair * state.residual[:, None]).sum(2)
        normal = np.einsum("mk,mik,mjk->mij", w, pair, pair)
        size = np.sqrt(np.maximum(np.einsum("mii->mi", normal), 1e-300))
        # A coordinate on the edge of the box that wants to leave it is frozen for this step.
        free = ~((here <= box[0]) & (gradient < 0) | (here >= box[1]) & (gradient > 0))
        cosine = np.where(free, np.abs(gradient) / (size * np.sqrt(np.maximum(state.sse, 1e-300))[:, None]), 0.0)
        done = (cosine.max(1) < ORTHOGONAL) | (state.sse <= EXACT * syy[live])
        arrived[live[done]] = True
        keep = ~arrived[live] & (damping[live] < 1e15)
        if not keep.any():
            break
        live, here, gradient, normal, size, free = (x[keep] for x in (live, here, gradient, normal, size, free))
        scaled = normal / (size[:, :, None] * size[:, None, :])
        step = _damped_step(scaled, gradient / size, free, damping[live]) / size
        full = _damped_step(scaled, gradient / size, free, np.full(len(live), 1e-10)) / size
        promised = np.where(free, gradient * full, 0.0).sum(1)
        arrived[live] |= (np.abs(step).max(1) < STILL) | (promised < SETTLED * state.sse[keep])
        there = np.clip(here + np.clip(step, -0.5, 0.5), *box)
        before, after = state.sse[keep], _project(u, v, y, weights[live], there[:, 0], there[:, 1], offset).sse
        # Within rounding of the sum of squares the step is better informed than the comparison.
        better = after <= before * (1 + 1e-13)
        theta[live[better]] = there[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 10, 1e-14), np.maximum(damping[live], 1e-8) * 10)
    return theta[:, 0], theta[:, 1], arrived


def _damped_step(normal, gradient, free, damping):
    """Solve (N + λ I) δ = g for 2 × 2 systems whose diagonal is one, with frozen coordinates kept at zero."""
    diagonal = 1 + damping
    off = np.where(free.all(1), normal[:, 0, 1], 0.0)
    g = np.where(free, gradient, 0.0)
    determinant = np.maximum(diagonal**2 - off**2, 1e-300)
    return np.stack([diagonal * g[:, 0] - off * g[:, 1], diagonal * g[:, 1] - off * g[:, 0]], 1) / determinant[:, None]
