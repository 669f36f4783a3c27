"""The memory law ΔL = C · r^α · ℓ^(−β) + b fitted to cells or runs (PAPER.md, section 1, claim 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from memlaw_jax.analysis.cells import Cells
from memlaw_jax.analysis.law import varpro
from memlaw_jax.analysis.law.problem import PARAMETERS, Problem
from memlaw_jax.errors import UserError

FORM = "delta_loss = C * rank**alpha * length**(-beta) + b"
REPORTED = ("C", "c_ref", "alpha", "beta", "b")
# Weakly identified: the 95 % interval of an exponent is wider than half the exponent, ...
WIDE = 0.5
# ... or the design alone is to blame: noise of 1 % of ΔL's range in each cell moves an exponent by over 3.5 % (one
# standard error). The base design of tests/analysis stays below 2.2 %, a 5 × 5 grid below 3.2 %, and the narrow design
# (3 ranks × 4 lengths) above 4.2 %, whatever the noise.
FRAGILE = 0.035


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One fitted law. `scale` is c_ref = ΔL − b at the reference cell (nats).

    `sse` weighs cells by their runs; `sigma` (nats) is the standard deviation about the law of what was fitted,
    a cell of one run or a run.
    """

    rank_ref: float
    length_ref: float
    scale: float
    alpha: float
    beta: float
    offset: float
    sse: float
    sigma: float
    converged: bool
    at_bound: bool

    def predict(self, rank: ArrayLike, length: ArrayLike) -> Float[np.ndarray, " *S"]:
        """ΔL in nats per answer token."""
        u = np.log(np.asarray(rank, float) / self.rank_ref)
        v = np.log(np.asarray(length, float) / self.length_ref)
        return self.scale * np.exp(self.alpha * u - self.beta * v) + self.offset

    @property
    def theta(self) -> tuple[float, float, float, float, float]:
        """(α, β, c/σ, b/σ, 1/σ), in which the censored likelihood is climbed."""
        return self.alpha, self.beta, self.scale / self.sigma, self.offset / self.sigma, 1 / self.sigma

    @property
    def constant(self) -> float:
        """C, the factor of r^α ℓ^(−β) (nats)."""
        return float(unreferenced(self.scale, self.alpha, self.beta, self.rank_ref, self.length_ref))


def unreferenced(scale, alpha, beta, rank_ref: float, length_ref: float):
    """C = c_ref · r_ref^(−α) · ℓ_ref^β, for numbers or arrays."""
    return scale * np.exp(beta * np.log(length_ref) - alpha * np.log(rank_ref))


def coordinates(
    cells: Cells, rank_ref: float, length_ref: float
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """ln(r/r_ref) and ln(ℓ/ℓ_ref)."""
    return np.log(cells.rank / rank_ref), np.log(cells.length / length_ref)


def estimate(problem: Problem, rank_ref: float, length_ref: float) -> Estimate:
    """The global solution of a problem in the coordinates of this reference cell, or `UserError` if there is none."""
    found = problem.solve()
    open_rows = problem.y if problem.saturated is None else problem.y[~problem.saturated]
    if not np.isfinite(found.scale[0]) or np.ptp(open_rows) == 0:
        raise UserError(
            f"ΔL of the {problem.cells} unsaturated cells does not rise with rank or fall with length, so there is no "
            "law to fit; check the columns, or train longer"
        )
    numbers = ("scale", "alpha", "beta", "offset", "sse", "sigma")
    return Estimate(
        rank_ref=rank_ref,
        length_ref=length_ref,
        converged=bool(found.converged[0]),
        at_bound=bool(found.at_bound[0]),
        **{name: float(getattr(found, name)[0]) for name in numbers},
    )


def weakly_identified(fit: Estimate, cells: Cells) -> bool:
    """Whether these cells pin the exponents down badly, by their noise or by their design (linearised errors)."""
    u, v = coordinates(cells, fit.rank_ref, fit.length_ref)
    tangent = varpro.tangents(u, v, fit.scale, fit.alpha, fit.beta)
    exponents = np.array([fit.alpha, fit.beta])

    def errors(weights: np.ndarray) -> np.ndarray:
        spread = np.linalg.pinv(tangent.T @ (weights[:, None] * tangent), hermitian=True)
        return np.sqrt(np.maximum(np.diag(spread)[1:3], 0.0))

    spare = len(cells) - PARAMETERS
    # Cells are the evidence: what single runs miss in a Huber or a censored fit also holds the scatter within cells.
    miss = cells.delta - fit.predict(cells.rank, cells.length)
    sse = min(fit.sse, float((cells.runs * miss**2).sum()))
    width = 2 * stats.t.ppf(0.975, spare) * np.sqrt(sse / spare) * errors(cells.runs.astype(float))
    fragile = 0.01 * np.ptp(cells.delta) * errors(np.ones(len(cells)))
    return bool((width > WIDE * exponents).any() or (fragile > FRAGILE * exponents).any())


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well a law describes the cell means it was fitted to.

    `rmse` in nats; `rmse_relative` is rmse over the range of ΔL; `mape` a fraction; `aicc` is n ln(SSE/n) + 2k +
    2k(k+1)/(n−k−1) on cell means with k = 5 (four parameters and the variance), None with too few cells for it.
    """

    r2: float
    rmse: float
    rmse_relative: float
    mape: float
    aicc: float | None


def quality(fit: Estimate, cells: Cells) -> Quality:
    """Cell means count once each in r2, rmse and mape, and by their runs in aicc, as in the fit."""
    y = cells.delta
    miss = y - fit.predict(cells.rank, cells.length)
    n, k = len(cells), PARAMETERS + 1
    weighted = max(float((cells.runs * miss**2).sum() / cells.runs.mean()), 1e-300)
    aicc = n * np.log(weighted / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else None
    rmse = float(np.sqrt((miss**2).mean()))
    return Quality(
        r2=float(1 - (miss**2).sum() / ((y - y.mean()) ** 2).sum()),
        rmse=rmse,
        rmse_relative=rmse / float(np.ptp(y)),
        mape=float(np.abs(miss / np.where(y == 0, np.nan, y))[y != 0].mean()),
        aicc=None if aicc is None else float(aicc),
    )
