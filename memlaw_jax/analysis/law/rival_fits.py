"""Global least squares for every form of `rival_forms`, for many weightings of the cells at once.

As in `varpro`, which does the same for the law alone: a grid over θ finds the valleys at the price of a few matrix
products, and Levenberg-Marquardt on the projected residual goes to the bottom of the best. The ends of the grid are the
box that θ stays in. Deterministic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import minimum_filter

from memlaw_jax.analysis.law.rival_forms import Form
from memlaw_jax.analysis.law.varpro import EXACT, ORTHOGONAL, STILL

MAX_ITERATIONS = 150
MAX_VALLEYS = 8
# A column whose sum of squares about its mean is this share of its sum of squares is a constant to within rounding.
FLAT = 1e-20
# The polish has also arrived when a full Gauss-Newton step would lower the sum of squares by less than this share of
# it: where residuals are as large as ΔL itself, steps circle the minimum and the cosine of `varpro` is out of reach.
SETTLED = 1e-13


@dataclass(frozen=True, kw_only=True)
class Fits:
    """One least-squares solution for each of M weightings.

    `found` is False where the data ask for a_j ≤ 0 throughout: then the form is a constant, θ is nan and a is zero.
    """

    theta: Float[np.ndarray, "M P"]
    coef: Float[np.ndarray, "M J"]
    offset: Float[np.ndarray, " M"]
    sse: Float[np.ndarray, " M"]
    found: Bool[np.ndarray, " M"]
    converged: Bool[np.ndarray, " M"]

    def predict(self, form: Form, u: np.ndarray, v: np.ndarray) -> Float[np.ndarray, "M K"]:
        """ΔL in nats per answer token."""
        phi, _ = form.basis(np.where(self.found[:, None], self.theta, form.low), u, v)
        return (self.coef[..., None] * phi).sum(1) + self.offset[:, None]


def solve(
    form: Form,
    u: Float[np.ndarray, " K"],
    v: Float[np.ndarray, " K"],
    y: Float[np.ndarray, " K"],
    weights: Float[np.ndarray, "M K"],
    *,
    starts: Sequence[Sequence[float]] = (),
    valleys: int = MAX_VALLEYS,
) -> Fits:
    """Global least squares for each weighting: from the deepest `valleys` of the grid, and from `starts`."""
    shape = tuple(len(axis) for axis in form.axes)
    grid = np.array(list(itertools.product(*form.axes))).reshape(math.prod(shape), len(shape))
    surface = _grid_profile(form, grid, u, v, y, weights)
    owners, places = _valleys(surface.reshape(len(weights), *shape), valleys)
    theta = grid[places]
    if len(starts):
        extra = np.clip(np.array(starts, float).reshape(len(starts), -1), form.low, form.high)
        theta = np.concatenate([theta, np.tile(extra, (len(weights), 1))])
        owners = np.concatenate([owners, np.repeat(np.arange(len(weights)), len(extra))])
    total = weights.sum(1)
    mean = (weights @ y) / total if form.offset else np.zeros(len(weights))
    out = Fits(
        theta=np.full((len(weights), len(form.axes)), np.nan),
        coef=np.zeros((len(weights), form.columns)),
        offset=mean.copy(),
        sse=(weights * (y - mean[:, None]) ** 2).sum(1),
        found=np.zeros(len(weights), bool),
        converged=np.zeros(len(weights), bool),
    )
    if len(theta):
        theta, arrived = _polish(form, u, v, y, weights[owners], theta)
        state = _project(form, u, v, y, weights[owners], theta)
        order = np.argsort(state.sse, kind="stable")[::-1]  # the best start of each owner is written last
        order = order[(state.coef[order] > 0).any(1) & np.isfinite(state.sse[order])]
        rows = owners[order]
        out.theta[rows], out.coef[rows], out.offset[rows] = theta[order], state.coef[order], state.offset[order]
        out.sse[rows], out.found[rows], out.converged[rows] = state.sse[order], True, arrived[order]
    return out


def _nonnegative(gram, product):
    """Least-squares coefficients ≥ 0 from Gram matrices [..., J, J] and products with y [..., J], J = 1 or 2, and the
    sum of squares that they explain. Columns that the Gram matrix calls collinear are not used together."""
    size = np.diagonal(gram, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where((size > 0) & (product > 0), product / size, 0.0)  # [..., J]
    gain = alone * product
    if size.shape[-1] == 1:
        return alone, gain[..., 0]
    best = np.argmax(gain, axis=-1)
    coef = np.where(np.arange(2) == best[..., None], alone, 0.0)
    cross = gram[..., 0, 1]
    determinant = size[..., 0] * size[..., 1] - cross**2
    with np.errstate(divide="ignore", invalid="ignore"):
        both = (size[..., ::-1] * product - cross[..., None] * product[..., ::-1]) / determinant[..., None]
    good = (determinant > 1e-12 * size[..., 0] * size[..., 1]) & (both > 0).all(-1)
    coef = np.where(good[..., None], both, coef)
    return coef, (coef * product).sum(-1)


def _grid_profile(form, grid, u, v, y, weights):
    """Least sum of squares at each grid point, [M, G]; inf where every coefficient would be negative."""
    phi, _ = form.basis(grid, u, v)
    total = weights.sum(1, keepdims=True)
    y = y - y.mean() if form.offset else y
    pairs = [(i, j) for i in range(form.columns) for j in range(i, form.columns)]
    gram = np.empty((len(weights), len(grid), form.columns, form.columns))
    for i, j in pairs:
        gram[..., i, j] = gram[..., j, i] = weights @ (phi[:, i] * phi[:, j]).T
    product = np.stack([(weights * y) @ phi[:, j].T for j in range(form.columns)], axis=-1)
    syy = weights @ (y * y)
    if form.offset:
        sums = np.stack([weights @ phi[:, j].T for j in range(form.columns)], axis=-1)
        raw = np.diagonal(gram, axis1=2, axis2=3)
        gram = gram - sums[..., None] * sums[..., None, :] / total[..., None, None]
        flat = np.diagonal(gram, axis1=2, axis2=3) <= 1e-13 * raw
        product = np.where(flat, 0.0, product - sums * ((weights @ y) / total[:, 0])[:, None, None])
        syy = syy - (weights @ y) ** 2 / total[:, 0]
    _, gain = _nonnegative(gram, product)
    return np.where(np.isfinite(gain) & (gain > 0), syy[:, None] - gain, np.inf)


def _valleys(surface, most):
    """(owners, flat grid indices) of the points no higher than their neighbours: each owner's deepest `most`."""
    around = minimum_filter(surface, size=(1, *(3,) * (surface.ndim - 1)), mode="constant", cval=np.inf)
    flat = np.where(np.isfinite(surface) & (surface <= around), surface, np.inf).reshape(len(surface), -1)
    order = np.argsort(flat, axis=1, kind="stable")[:, :most]
    owners = np.repeat(np.arange(len(surface)), order.shape[1]).reshape(order.shape)
    low = np.isfinite(np.take_along_axis(flat, order, 1))
    return owners[low], order[low]


@dataclass(frozen=True)
class _State:
    coef: np.ndarray  # [N, J]
    offset: np.ndarray
    sse: np.ndarray
    residual: np.ndarray  # [N, K]
    tangent: np.ndarray  # [N, P, K], Kaufman's Jacobian of the fitted values: a and b projected out


def _project(form, u, v, y, weights, theta):
    phi, slope = form.basis(theta, u, v)
    total = weights.sum(1)

    def centre(x):
        w = weights.reshape(len(weights), *(1,) * (x.ndim - 2), -1)
        return x - (w * x).sum(-1, keepdims=True) / total.reshape(-1, *(1,) * (x.ndim - 1)) if form.offset else x

    columns = centre(phi)
    weighed = weights[:, None] * columns
    gram = weighed @ columns.swapaxes(1, 2)
    target = centre(np.broadcast_to(y, weights.shape))
    flat = np.diagonal(gram, axis1=1, axis2=2) <= FLAT * (weights[:, None] * phi**2).sum(2)
    product = np.where(flat, 0.0, (weighed @ target[..., None])[..., 0])
    coef, _ = _nonnegative(gram, product)
    residual = target - (coef[..., None] * columns).sum(1)
    offset = (weights * (y - (coef[..., None] * phi).sum(1))).sum(1) / total if form.offset else np.zeros(len(theta))
    tangent = centre((coef[:, None, :, None] * slope).sum(2))
    for column in _orthogonal(columns * (coef > 0)[..., None], weights):
        norm = np.maximum((weights * column**2).sum(1), 1e-300)[:, None, None]
        tangent = tangent - column[:, None] * ((weights * column)[:, None] * tangent).sum(2, keepdims=True) / norm
    return _State(coef, offset, (weights * residual**2).sum(1), residual, tangent)


def _orthogonal(columns, weights):
    """One or two columns [N, J, K] made orthogonal (Gram and Schmidt); an unused column is zero and takes nothing."""
    first = columns[:, 0]
    if columns.shape[1] == 1:
        return [first]
    norm = np.maximum((weights * first**2).sum(1, keepdims=True), 1e-300)
    return [first, columns[:, 1] - first * (weights * columns[:, 1] * first).sum(1, keepdims=True) / norm]


def _polish(form, u, v, y, weights, theta):
    """Damped Gauss-Newton on the projected residual inside the box; rows that have arrived drop out."""
    theta = theta.copy()
    arrived = np.zeros(len(theta), bool)
    if not form.axes:
        return theta, ~arrived
    damping = np.full(len(theta), 1e-3)
    live = np.arange(len(theta))
    total = weights.sum(1)
    centre = (weights @ y) / total if form.offset else np.zeros(len(theta))
    syy = (weights * (y - centre[:, None]) ** 2).sum(1)
    state = _project(form, u, v, y, weights, theta)
    for _ in range(MAX_ITERATIONS):
        w, here = weights[live], theta[live]
        gradient = ((w * state.residual)[:, None] * state.tangent).sum(2)
        normal = (w[:, None] * state.tangent) @ state.tangent.swapaxes(1, 2)
        size = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 1e-300))
        # A coordinate on the edge of the box that wants to leave it is frozen for this step.
        free = ~((here <= form.low) & (gradient < 0) | (here >= form.high) & (gradient > 0))
        cosine = np.where(free, np.abs(gradient) / (size * np.sqrt(np.maximum(state.sse, 1e-300))[:, None]), 0.0)
        arrived[live] |= (cosine.max(1) < ORTHOGONAL) | (state.sse <= EXACT * syy[live])
        step = _damped_step(normal, gradient, size, free, damping[live])
        undamped = _damped_step(normal, gradient, size, free, np.full(len(live), 1e-10))
        arrived[live] |= (np.where(free, gradient * undamped, 0.0).sum(1) < SETTLED * state.sse) | (
            np.abs(step).max(1) < STILL
        )
        there = np.clip(here + np.clip(step, -1.0, 1.0), form.low, form.high)
        trial = _project(form, u, v, y, w, there)
        # Within rounding of the sum of squares the step is better informed than the comparison.
        better = ~arrived[live] & (trial.sse <= state.sse * (1 + 1e-13))
        theta[live[better]] = there[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 10, 1e-12), np.maximum(damping[live], 1e-8) * 10)
        keep = ~arrived[live] & (damping[live] < 1e15)
        if not keep.any():
            break
        state = _State(
            *(np.where(_wide(better, a), b, a)[keep] for a, b in zip(_parts(state), _parts(trial), strict=True))
        )
        live = live[keep]
    return theta, arrived


def _parts(state):
    return state.coef, state.offset, state.sse, state.residual, state.tangent


def _wide(flag, like):
    return flag.reshape(-1, *(1,) * (like.ndim - 1))


def _damped_step(normal, gradient, size, free, damping):
    """Solve (N + λ diag N) δ = g for small systems, with frozen coordinates kept at zero."""
    both = free[:, :, None] & free[:, None, :]
    scaled = np.where(both, normal / (size[:, :, None] * size[:, None, :]), 0.0)
    diagonal = np.arange(size.shape[1])
    scaled[:, diagonal, diagonal] = 1 + damping[:, None]
    return np.linalg.solve(scaled, np.where(free, gradient / size, 0.0)[..., None])[..., 0] / size
