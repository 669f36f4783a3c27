"""One law through the cells of several data sets, as the paper's Table 1 fits r0 to r100 combined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from memlaw_jax.analysis.law.bootstrap import MAX_ROUNDS
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.least_squares import estimate, unreferenced
from memlaw_jax.analysis.law.problem import Problem
from memlaw_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PooledLaw:
    """ΔL = C · r^α · ℓ^(−β) + b with the same four numbers for all data sets.

    `r2` and `mape` (a fraction) are taken on the cell means that were fitted, `cells` of them; `intervals` are 95 %
    percentile intervals of `alpha`, `beta`, `b`, `C` and `r2` over resamples of the cells, each with its own fit.
    """

    names: tuple[str, ...]
    cells: int
    C: float
    alpha: float
    beta: float
    b: float
    r2: float
    mape: float
    intervals: dict[str, tuple[float, float]]


def pool(laws: Mapping[str, Law], bootstrap: int = 400, seed: int = 0) -> PooledLaw:
    """Fits one law to the cells that each of these laws was fitted to, by least squares weighted by runs.

    A cell is one (data set, rank, length). Of a single data set this is its own law, with an interval of R² besides.

    Raises:
      UserError: no law, or cells that follow no such law together.
    """
    if not laws:
        raise UserError("there is no law to pool; give at least one")
    cells = [cell for law in laws.values() for cell in law.used]
    rank, length, delta = (np.array([getattr(cell, name) for cell in cells], float) for name in _READ)
    rank_ref, length_ref = (float(np.exp(np.log(x).mean())) for x in (rank, length))
    problem = Problem(
        kind="squared",
        u=np.log(rank / rank_ref),
        v=np.log(length / length_ref),
        y=delta,
        weight=np.array([cell.runs_used for cell in cells], float),
        cell=np.arange(len(cells)),
        cells=len(cells),
    )
    fit = estimate(problem, rank_ref, length_ref)
    miss = delta - fit.predict(rank, length)
    return PooledLaw(
        names=tuple(laws),
        cells=len(cells),
        C=fit.constant,
        alpha=fit.alpha,
        beta=fit.beta,
        b=fit.offset,
        r2=float(1 - (miss**2).sum() / ((delta - delta.mean()) ** 2).sum()),
        mape=float(np.abs(miss[delta != 0] / delta[delta != 0]).mean()),
        intervals=_intervals(problem, (fit.alpha, fit.beta), (rank_ref, length_ref), bootstrap, seed),
    )


_READ = ("rank", "length", "delta")


def _intervals(
    problem: Problem, warm: tuple[float, float], middle: tuple[float, float], bootstrap: int, seed: int
) -> dict[str, tuple[float, float]]:
    """From resamples that identify a law; those that do not are drawn again."""
    if not bootstrap:
        return {}
    rng, found, have = np.random.default_rng(seed), [], 0
    for _ in range(MAX_ROUNDS):
        times = rng.multinomial(problem.cells, np.full(problem.cells, 1 / problem.cells), size=bootstrap - have)
        times = times[problem.identifies(times)]
        solved = problem.solve(times)
        z = np.exp(np.outer(solved.alpha, problem.u) - np.outer(solved.beta, problem.v))
        miss = problem.y - solved.scale[:, None] * z - solved.offset[:, None]
        constant = unreferenced(solved.scale, solved.alpha, solved.beta, *middle)
        rows = np.stack([solved.alpha, solved.beta, solved.offset, constant, _r2(problem.y, miss, times)], axis=1)
        found.append(rows[np.isfinite(rows).all(axis=1)])
        have += len(found[-1])
        if have == bootstrap:
            break
    else:
        raise UserError(f"the {problem.cells} cells leave too few resamples that can be fitted; add cells")
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(("alpha", "beta", "b", "C", "r2"))}


def _r2(
    y: Float[np.ndarray, " K"], miss: Float[np.ndarray, "M K"], times: Float[np.ndarray, "M K"]
) -> Float[np.ndarray, " M"]:
    mean = (times * y).sum(axis=1) / times.sum(axis=1)
    return 1 - (times * miss**2).sum(axis=1) / (times * (y - mean[:, None]) ** 2).sum(axis=1)
