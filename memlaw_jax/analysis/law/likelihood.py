"""Profile likelihoods of α, β and b, and tests of simpler laws within this one: b = 0, α = β, α = β = 1.

On cell means with normal noise the deviance of a constrained law is n ln(SSE / SSE_min), and
F = (n − 4)/q · (SSE / SSE_min − 1) with q constraints has the F distribution to first order; its 95 % point closes the
intervals. A Huber law is profiled with the weights that it ended with. A censored law is profiled by its own likelihood
over runs, whose deviance is divided by how much more the means of cells scatter than independent runs would (the seeds
of a cell are no independent evidence), and then taken for q F.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from memlaw_jax.analysis.law import censored, robust, varpro
from memlaw_jax.analysis.law.least_squares import Estimate
from memlaw_jax.analysis.law.problem import PARAMETERS, Problem
from memlaw_jax.analysis.law.varpro import BOUNDS, EXACT, GRID

LEVEL = 0.95
POINTS = 25  # of a profile
_STEPS = 12  # doublings of the distance in search of an interval's end


@dataclass(frozen=True, kw_only=True)
class Profile:
    """−2 ln of the likelihood ratio (`deviance`) when one parameter is held at each of `values` and the rest is free.

    The 95 % interval (`low`, `high`) is where it stays below `threshold`; an end is None where that is not inside the
    range that is searched. b in nats.
    """

    name: str
    values: tuple[float, ...]
    deviance: tuple[float, ...]
    threshold: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A simpler law tested against this one: F with its degrees of freedom, and p.

    The second is 0, and F a χ² over the first, where fewer than five cells have no saturated run.
    """

    name: str
    statistic: float
    df: tuple[int, int]
    p: float


class Likelihood:
    """−2 ln of the greatest likelihood of a problem under constraints, up to a constant."""

    def __init__(self, problem: Problem, fit: Estimate) -> None:
        self.kind = problem.kind
        self.fit = fit
        if problem.kind == "tobit":
            self.runs, self.weight = problem.runs, problem.weight
            self.n, self.dispersion = _dispersion(problem, fit)
        else:
            self.u, self.v, self.y, self.weight = _cell_means(problem, fit)
            self.n = len(self.y)
            self.floor = EXACT * float((self.weight * self.y**2).sum())
        self.best = self.deviance()

    def deviance(
        self, alpha: float | None = None, beta: float | None = None, b: float | None = None, equal: bool = False
    ) -> float:
        """With exponents or b held; `equal` makes β = α."""
        shift, exponents = b or 0.0, (alpha, beta)
        if self.kind == "tobit":
            u, v = (self.runs.u - self.runs.v, 0 * self.runs.v) if equal else (self.runs.u, self.runs.v)
            runs = censored.Runs(u=u, v=v, y=self.runs.y - shift, saturated=self.runs.saturated)
            held = (alpha, 1.0) if equal else exponents
            warm = None if equal else self._start(alpha, beta, b)
            _, _, likelihood = censored.solve(runs, self.weight[None], exponents=held, offset=b is None, warm=warm)
            return float(-2 * likelihood[0])
        u, v = (self.u - self.v, 0 * self.v) if equal else (self.u, self.v)
        alphas, betas = (GRID if x is None else np.array([x]) for x in ((alpha, 1.0) if equal else exponents))
        found = varpro.solve(u, v, self.y - shift, self.weight[None], grid=(alphas, betas), offset=b is None)
        # With c → 0 every law is a constant: what is left where the data ask for a negative c.
        level = shift if b is not None else np.average(self.y, weights=self.weight)
        constant = float((self.weight * (self.y - level) ** 2).sum())
        return float(self.n * np.log(max(min(found.sse[0], constant), self.floor, 1e-300)))

    def _start(self, alpha: float | None, beta: float | None, b: float | None) -> np.ndarray:
        """Where the censored likelihood starts to climb: the law itself, with what is held."""
        start = np.array(self.fit.theta)
        start[0] = start[0] if alpha is None else alpha
        start[1] = start[1] if beta is None else beta
        start[3] = start[3] if b is None else 0.0
        return start

    def above(self, **held) -> float:
        """The deviance over the best."""
        return max(self.deviance(**held) - self.best, 0.0)

    def threshold(self, level: float = LEVEL) -> float:
        """Of the deviance with one constraint."""
        spare = self.n - PARAMETERS
        if self.kind == "tobit":
            return float(self.dispersion * (stats.f.ppf(level, 1, spare) if spare > 0 else stats.chi2.ppf(level, 1)))
        return float(self.n * np.log1p(stats.f.ppf(level, 1, spare) / spare))

    def test(self, name: str, constraints: int, **held) -> Hypothesis:
        """The law with these constraints against the law without."""
        over = self.above(**held)
        if self.kind == "tobit":
            over = min(over, 1e9) / self.dispersion
            spare = max(self.n - PARAMETERS, 0)
            p = stats.f.sf(over / constraints, constraints, spare) if spare else stats.chi2.sf(over, constraints)
            return Hypothesis(name=name, statistic=over / constraints, df=(constraints, spare), p=float(p))
        spare = self.n - PARAMETERS
        statistic = spare / constraints * float(np.expm1(min(over / self.n, 500.0)))
        return Hypothesis(name=name, statistic=statistic, df=(constraints, spare),
                          p=float(stats.f.sf(statistic, constraints, spare)))  # fmt: skip


def profiles(likelihood: Likelihood) -> tuple[Profile, ...]:
    """Of α, β and b."""
    fit = likelihood.fit
    box = {"alpha": BOUNDS, "beta": BOUNDS, "b": (-np.inf, np.inf)}
    at = {"alpha": fit.alpha, "beta": fit.beta, "b": fit.offset}
    near = {"alpha": 0.02, "beta": 0.02, "b": 0.02 * max(abs(fit.scale), abs(fit.offset), 1e-6)}
    return tuple(_profile(likelihood, name, at[name], near[name], box[name]) for name in at)


def hypotheses(likelihood: Likelihood) -> tuple[Hypothesis, ...]:
    """b = 0, α = β and α = β = 1."""
    return (
        likelihood.test("b = 0", 1, b=0.0),
        likelihood.test("α = β", 1, equal=True),
        likelihood.test("α = β = 1", 2, alpha=1.0, beta=1.0),
    )


def _profile(likelihood: Likelihood, name: str, at: float, near: float, box: tuple[float, float]) -> Profile:
    threshold = likelihood.threshold()

    def over(value: float) -> float:
        return likelihood.above(**{name: value}) - threshold

    low, high = (_end(over, at, sign * near, box) for sign in (-1, 1))
    reach = [at - 40 * near if low is None else low, at + 40 * near if high is None else high]
    ends = [max(at - 1.5 * (at - reach[0]), box[0]), min(at + 1.5 * (reach[1] - at), box[1])]
    values = np.unique([*np.linspace(ends[0], at, POINTS // 2 + 1), *np.linspace(at, ends[1], POINTS // 2 + 1)])
    deviance = [likelihood.above(**{name: value}) for value in values]
    kept = np.isfinite(deviance)
    return Profile(
        name=name,
        values=tuple(values[kept].tolist()),
        deviance=tuple(np.array(deviance)[kept].tolist()),
        threshold=threshold,
        low=low,
        high=high,
    )


def _end(over: Callable[[float], float], at: float, step: float, box: tuple[float, float]) -> float | None:
    """Where the deviance crosses the threshold, going from the best value by doubling steps; None if it does not."""
    inside = at
    if over(at) > 0:  # held at its best value the rest still found a worse place: there is nothing to bracket
        return None
    for _ in range(_STEPS):
        outside = float(np.clip(at + step, *box))
        if over(outside) > 0:
            # A law that no longer exists (an infinite deviance) is outside too, which a sign is enough to tell.
            return float(brentq(lambda value: min(over(value), 1e3), inside, outside, xtol=1e-7, rtol=1e-9))
        if outside in box:
            return None
        inside, step = outside, 2 * step
    return None


def _cell_means(problem: Problem, fit: Estimate):
    """u, v, ΔL and weight of each cell; with Huber's loss, of its runs as they count at the solution."""
    weight = problem.weight
    if problem.kind == "huber":
        _, used = robust.solve(problem.u, problem.v, problem.y, weight[None], warm=(fit.alpha, fit.beta))
        weight = used[0]
    total = np.bincount(problem.cell, weight, problem.cells)
    kept = total > 0
    means = [
        np.bincount(problem.cell, weight * x, problem.cells)[kept] / total[kept]
        for x in (problem.u, problem.v, problem.y)
    ]
    return *means, total[kept]


def _dispersion(problem: Problem, fit: Estimate) -> tuple[int, float]:
    """Cells without a saturated run, and by how much their means scatter more than independent runs would."""
    z = np.exp(fit.alpha * problem.u - fit.beta * problem.v)
    miss = problem.y - fit.scale * z - fit.offset
    runs = np.bincount(problem.cell, minlength=problem.cells)
    whole = np.bincount(problem.cell, problem.saturated, problem.cells) == 0
    means = np.bincount(problem.cell, miss, problem.cells) / np.maximum(runs, 1)
    n = int(whole.sum())
    if n <= PARAMETERS:
        return n, 1.0
    between = float((runs * means**2)[whole].sum()) / (n - PARAMETERS)
    return n, max(between / fit.sigma**2, 1.0)
