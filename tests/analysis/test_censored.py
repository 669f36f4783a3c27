"""The censored likelihood against SciPy, and what a saturated run may and may not say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from memlaw_jax.analysis import fit_law
from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.law import censored
from memlaw_jax.analysis.law.problem import of_runs
from memlaw_jax.errors import UserError

from .simulate import BASE, NOISY, simulate


def negative(p, runs):
    """−ln L written out."""
    alpha, beta, c, b, log_sigma = p
    sigma, mu = np.exp(log_sigma), c * np.exp(alpha * runs.u - beta * runs.v) + b
    seen = norm.logpdf(runs.y, mu, sigma)
    return -np.where(runs.saturated, norm.logsf(runs.y, mu, sigma), seen).sum()


@pytest.mark.parametrize("s", range(5))
def test_no_start_of_scipy_finds_more(s):
    runs = of_runs(simulate(NOISY, s), "tobit", 8.0, 8000.0).runs
    found, _, likelihood = censored.solve(runs, np.ones((1, len(runs.y))))
    assert found.converged[0] and runs.saturated.any()
    ours = (found.alpha[0], found.beta[0], found.scale[0], found.offset[0], np.log(found.sigma[0]))
    constant = 0.5 * np.log(2 * np.pi) * (~runs.saturated).sum()  # which ours leaves out
    assert negative(ours, runs) == pytest.approx(constant - likelihood[0], rel=1e-12)
    rng = np.random.default_rng(s)
    for _ in range(4):
        start = (*rng.uniform(0.2, 1.2, 2), rng.uniform(0.3, 2), rng.uniform(-0.5, 0.5), np.log(0.1))
        theirs = minimize(negative, start, args=(runs,), method="BFGS").fun
        assert negative(ours, runs) <= theirs + 1e-6
    best = minimize(negative, ours, args=(runs,), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(best.x, ours, atol=2e-5)


def test_without_a_saturated_run_it_is_least_squares():
    frame = simulate(NOISY.but(initial=100.0), 2)
    squares, tobit = fit_law(frame, bootstrap=0), fit_law(frame, filter="tobit", bootstrap=0)
    for name in ("alpha", "beta", "b", "c_ref"):
        assert getattr(tobit, name) == pytest.approx(getattr(squares, name), abs=1e-6)
    assert tobit.loss == "censored" and tobit.sigma == pytest.approx(
        np.sqrt(np.mean((100.0 - frame["loss_final"] - squares.predict(frame["rank"], frame["length"])) ** 2)), rel=1e-6
    )


def test_how_far_beyond_the_threshold_a_run_got_does_not_matter():
    """Below ln 2 a final loss says the same whatever it is."""
    frame = simulate(NOISY, 0)
    deep = frame.assign(loss_final=np.where(frame["loss_final"] <= SATURATED, 0.01, frame["loss_final"]))
    one, other = (fit_law(runs, filter="tobit", bootstrap=0) for runs in (frame, deep))
    assert (one.alpha, one.beta, one.b) == (other.alpha, other.beta, other.b)


def test_saturated_runs_are_told_and_counted():
    law = fit_law(simulate(NOISY, 0), filter="tobit", bootstrap=50)
    assert law.dropped and all("bound of ΔL" in cell.reason for cell in law.dropped)
    assert law.rivals and law.profiles and law.flags.converged
    for test in law.tests:
        assert test.df[1] > 10 and 0 <= test.p <= 1  # cells, not runs


def test_replicates_from_the_full_solution_reach_the_cold_ones():
    problem = of_runs(simulate(NOISY, 1), "tobit", 8.0, 8000.0)
    _, theta, _ = censored.solve(problem.runs, problem.weight[None])
    times = np.random.default_rng(0).multinomial(56, np.full(56, 1 / 56), size=8)
    warm = dataclasses.replace(problem, warm=tuple(theta[0])).solve(times)
    cold = [censored.solve(problem.runs, (row[problem.cell] * problem.weight)[None])[0] for row in times]
    np.testing.assert_allclose(warm.alpha, [one.alpha[0] for one in cold], atol=1e-5)
    assert warm.converged.all()


def test_a_loss_of_its_own():
    with pytest.raises(UserError, match="'tobit' has a likelihood of its own and loss is 'huber'"):
        fit_law(simulate(BASE, 0), filter="tobit", loss="huber")
    with pytest.raises(UserError, match="loss is 'cauchy'"):
        fit_law(simulate(BASE, 0), loss="cauchy")
    with pytest.raises(UserError, match="only 0 unsaturated"):
        fit_law(simulate(BASE, 0).assign(loss_final=0.1), filter="tobit")
