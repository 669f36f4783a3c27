"""The memory law and seven other shapes that ΔL(r, ℓ) could have, in one notation.

With u = ln(r/r_ref) and v = ln(ℓ/ℓ_ref) every form is y = Σ a_j φ_j(θ; u, v) (+ b), a_j ≥ 0: linear but for at most
three numbers θ, so that `rival_fits` can search over θ alone. All rise with rank and fall with length, but for the
curvature's far corners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from memlaw_jax.analysis.law.least_squares import unreferenced
from memlaw_jax.analysis.law.varpro import BOUNDS

Basis = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One shape of ΔL. `k` counts its free parameters, `levels` the distinct ranks (and lengths) that it needs.

    `basis(θ [N P], u [K], v [K])` gives φ [N J K] and ∂φ/∂θ [N P J K]; `natural(a, θ, b, r_ref, ℓ_ref)` names the
    parameters of `formula`.
    """

    name: str
    title: str
    formula: str
    k: int
    axes: tuple[np.ndarray, ...]
    basis: Basis
    natural: Callable[..., dict[str, float]]
    columns: int = 1
    offset: bool = True
    levels: int = 2

    @property
    def low(self) -> np.ndarray:
        return np.array([axis[0] for axis in self.axes])

    @property
    def high(self) -> np.ndarray:
        return np.array([axis[-1] for axis in self.axes])


def _power(theta, u, v):
    z = np.exp(theta[:, :1] * u - theta[:, 1:2] * v)
    return z[:, None], np.stack([z * u, -z * v], axis=1)[:, :, None]


def _ratio(theta, u, v):
    z = np.exp(theta * (u - v))
    return z[:, None], (z * (u - v))[:, None, None]


def _additive(theta, u, v):
    phi = np.stack([np.exp(theta[:, :1] * u), np.exp(-theta[:, 1:] * v)], axis=1)
    nothing = np.zeros_like(phi[:, 0])
    by_alpha = np.stack([phi[:, 0] * u, nothing], axis=1)
    by_beta = np.stack([nothing, -phi[:, 1] * v], axis=1)
    return phi, np.stack([by_alpha, by_beta], axis=1)


def _logarithmic(theta, u, v):
    phi = np.broadcast_to(np.stack([u, -v]), (len(theta), 2, len(u)))
    return phi, np.zeros((len(theta), 0, 2, len(u)))


def _exponential(theta, u, v):
    t = np.exp(theta[:, :1] + theta[:, 1:2] * u - theta[:, 2:] * v)
    slope = t * np.exp(-t)
    return -np.expm1(-t)[:, None], np.stack([slope, slope * u, -slope * v], axis=1)[:, :, None]


def _capacity(theta, u, v):
    """θ = (ln of the ratio r/ℓ, over the reference's, at which A = K r/ℓ; ln p)."""
    p = np.exp(theta[:, 1:])
    gap = theta[:, :1] - (u - v)
    soft = np.logaddexp(0.0, p * gap) / p
    phi = np.exp(-soft)
    share = expit(p * gap)
    return phi[:, None], np.stack([-phi * share, phi * (soft - share * gap)], axis=1)[:, :, None]


def _curvature(theta, u, v):
    z = np.exp(theta[:, :1] * u - theta[:, 1:2] * v + theta[:, 2:] * (u * v))
    return z[:, None], np.stack([z * u, -z * v, z * u * v], axis=1)[:, :, None]


def _axis(points):
    """Exponents, evenly spaced in the square root as in `varpro.GRID`."""
    return np.clip(np.linspace(BOUNDS[0] ** 0.5, BOUNDS[1] ** 0.5, points) ** 2, *BOUNDS)


LAW = Form(
    name="law",
    title="the memory law",
    formula="C r^α ℓ^(−β) + b",
    k=4,
    axes=(_axis(24), _axis(24)),
    basis=_power,
    natural=lambda a, t, b, r, n: {"C": unreferenced(a[0], t[0], t[1], r, n), "alpha": t[0], "beta": t[1], "b": b},
)
NO_OFFSET = Form(
    name="no_offset",
    title="the law without an offset",
    formula="C r^α ℓ^(−β)",
    k=3,
    axes=LAW.axes,
    basis=_power,
    natural=lambda a, t, b, r, n: {"C": unreferenced(a[0], t[0], t[1], r, n), "alpha": t[0], "beta": t[1]},
    offset=False,
)
RATIO = Form(
    name="ratio",
    title="the ratio of rank to length alone",
    formula="A (r/ℓ)^γ + b",
    k=3,
    axes=(_axis(60),),
    basis=_ratio,
    natural=lambda a, t, b, r, n: {"A": a[0] * (r / n) ** -t[0], "gamma": t[0], "b": b},
)
ADDITIVE = Form(
    name="additive",
    title="rank and length added",
    formula="A r^α + B ℓ^(−β) + b",
    k=5,
    axes=LAW.axes,
    basis=_additive,
    natural=lambda a, t, b, r, n: {
        "A": a[0] * r ** -t[0],
        "alpha": t[0],
        "B": a[1] * n ** t[1],
        "beta": t[1],
        "b": b,
    },
    columns=2,
    levels=3,
)
LOGARITHMIC = Form(
    name="logarithmic",
    title="logarithms of rank and length",
    formula="A ln r − B ln ℓ + b",
    k=3,
    axes=(),
    basis=_logarithmic,
    natural=lambda a, t, b, r, n: {"A": a[0], "B": a[1], "b": b - a[0] * np.log(r) + a[1] * np.log(n)},
    columns=2,
)
# No offset: as C → 0 and A → ∞ it is the law without one, so with b it would hold the law itself as a limit and could
# never lose to it by its residuals. As it stands it trades the law's floor b for a ceiling A, four parameters each.
EXPONENTIAL = Form(
    name="saturating_exponential",
    title="a saturating exponential",
    formula="A (1 − exp(−C r^α ℓ^(−β)))",
    k=4,
    axes=(np.linspace(-10.0, 3.5, 15), _axis(13), _axis(13)),
    basis=_exponential,
    natural=lambda a, t, b, r, n: {
        "A": a[0],
        "C": unreferenced(np.exp(t[0]), t[1], t[2], r, n),
        "alpha": t[1],
        "beta": t[2],
    },
    offset=False,
)
# Every parameter stores the same amount: well below the ceiling A, ΔL ℓ = K r. p = 1 is a hyperbola, p → ∞ a corner;
# with p under ½ the knee is wider than any sweep, and the form is only another power law of r/ℓ, as `RATIO` is.
CAPACITY = Form(
    name="constant_capacity",
    title="a constant capacity per parameter",
    formula="A (1 + (A ℓ/(K r))^p)^(−1/p)",
    k=3,
    axes=(np.linspace(-12.0, 12.0, 61), np.log(np.geomspace(0.5, 50.0, 16))),
    basis=_capacity,
    natural=lambda a, t, b, r, n: {"A": a[0], "K": a[0] * np.exp(-t[0]) * n / r, "p": np.exp(t[1])},
    offset=False,
)
CURVATURE = Form(
    name="curvature",
    title="the law with curvature",
    formula="C exp(α ln(r/r₀) − β ln(ℓ/ℓ₀) + δ ln(r/r₀) ln(ℓ/ℓ₀)) + b",
    k=5,
    axes=(_axis(13), _axis(13), np.linspace(-1.0, 1.0, 13)),
    basis=_curvature,
    natural=lambda a, t, b, r, n: {"C": a[0], "alpha": t[0], "beta": t[1], "delta": t[2], "b": b},
)
FORMS = (LAW, NO_OFFSET, RATIO, ADDITIVE, LOGARITHMIC, EXPONENTIAL, CAPACITY, CURVATURE)
