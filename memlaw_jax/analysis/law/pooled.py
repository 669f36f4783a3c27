"""One law, or one pair of exponents, for several data sets: the paper's Table 1 has r0 to r100 combined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from memlaw_jax.analysis.law.bootstrap import MAX_ROUNDS
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.least_squares import estimate, unreferenced
from memlaw_jax.analysis.law.problem import Problem
from memlaw_jax.analysis.law.varpro import PARAMETERS
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


@dataclass(frozen=True, kw_only=True)
class SharedExponents:
    """ΔL = C · r^α · ℓ^(−β) + b with one α and one β for all data sets, and C and b of each.

    `r2` and `mape` (a fraction) as in `PooledLaw`; `p` is that of an F test against exponents of each data set's own.
    """

    names: tuple[str, ...]
    cells: int
    alpha: float
    beta: float
    r2: float
    mape: float
    p: float


def share_exponents(laws: Mapping[str, Law]) -> SharedExponents:
    """Least squares over the cells that these laws, fitted by least squares, were fitted to; a minimum near theirs.

    Raises:
      UserError: fewer than two laws, or no more cells than parameters.
    """
    if len(laws) < 2:
        raise UserError(f"{len(laws)} law has no exponents to share; give two or more")
    sets = [
        np.array([(cell.rank, cell.length, cell.delta, cell.runs_used) for cell in law.used]) for law in laws.values()
    ]

    def misses(exponents: Float[np.ndarray, " 2"]) -> list[Float[np.ndarray, " K"]]:
        found = []
        for rank, length, delta, runs in (one.T for one in sets):
            z = np.exp(exponents[0] * np.log(rank / rank.mean()) - exponents[1] * np.log(length / length.mean()))
            scaled = np.sqrt(runs)[:, None] * np.stack([z, np.ones_like(z)], axis=1)
            c, b = np.linalg.lstsq(scaled, np.sqrt(runs) * delta, rcond=None)[0]
            found.append(delta - c * z - b)
        return found

    def sse(parts: list[Float[np.ndarray, " K"]]) -> float:
        return float(sum((one[:, 3] * part**2).sum() for one, part in zip(sets, parts, strict=True)))

    start = [np.median([getattr(law, name) for law in laws.values()]) for name in ("alpha", "beta")]
    options = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 2000}
    best = optimize.minimize(lambda x: sse(misses(x)), start, method="Nelder-Mead", options=options)
    own = sse([one[:, 2] - law.predict(one[:, 0], one[:, 1]) for one, law in zip(sets, laws.values(), strict=True)])
    delta, miss = np.concatenate([one[:, 2] for one in sets]), np.concatenate(misses(best.x))
    fewer, spare = 2 * (len(laws) - 1), len(delta) - PARAMETERS * len(laws)
    if spare < 1:
        raise UserError(f"{len(delta)} cells are too few for {len(laws)} laws; add cells")
    ratio = max(0.0, best.fun - own) / fewer / (own / spare) if own else 0.0
    return SharedExponents(
        names=tuple(laws),
        cells=len(delta),
        alpha=float(best.x[0]),
        beta=float(best.x[1]),
        r2=float(1 - (miss**2).sum() / ((delta - delta.mean()) ** 2).sum()),
        mape=float(np.abs(miss[delta != 0] / delta[delta != 0]).mean()),
        p=float(stats.f.sf(ratio, fewer, spare)),
    )


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
        intervals=_intervals(problem, (rank_ref, length_ref), bootstrap, seed),
    )


_READ = ("rank", "length", "delta")


def _intervals(
    problem: Problem, middle: tuple[float, float], bootstrap: int, seed: int
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
