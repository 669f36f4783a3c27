"""Estimates and intervals against a known truth: the least-squares rows of issue 7's table."""

from __future__ import annotations

import numpy as np
import pytest

from memlaw_jax.analysis import fit_law

from .simulate import BASE, LONG, NARROW, NOISY, simulate


def study(design, sims, *, filter="predicted", bootstrap=0):
    """Bias and RMSE of (α, β), and with a bootstrap the share of intervals that hold the truth and their mean width."""
    truth = np.array([design.alpha, design.beta])
    laws = [fit_law(simulate(design, s), filter=filter, bootstrap=bootstrap, seed=s) for s in range(sims)]
    error = np.array([[law.alpha, law.beta] for law in laws]) - truth
    out = {"bias": error.mean(0), "rmse": np.sqrt((error**2).mean(0)), "laws": laws}
    if bootstrap:
        spans = np.array([[law.interval("alpha"), law.interval("beta")] for law in laws])
        out["cover"] = ((spans[..., 0] <= truth) & (truth <= spans[..., 1])).mean(0)
        out["width"] = (spans[..., 1] - spans[..., 0]).mean(0)
    return out


def test_base_design_is_unbiased():
    found = study(BASE, 40)
    # The standard error of the mean of 40 is 0.0027 and 0.0024; three of them.
    assert (np.abs(found["bias"]) < (0.0081, 0.0072)).all()
    assert all(law.flags.converged and not law.flags.weakly_identified for law in found["laws"])


def test_base_design_intervals_are_as_wide_as_the_estimates_scatter():
    found = study(BASE, 20, bootstrap=200)
    # A normal 95 % interval is 3.92 standard deviations wide; the scatter of 20 is known to 16 %, so ± 50 % is three.
    assert (np.abs(found["width"] / (3.92 * found["rmse"]) - 1) < 0.5).all()


def test_the_papers_filter_biases_alpha_down():
    """The reason for the default, on the noisy design. Standard error of the mean of 60: 0.005."""
    paper, predicted = (study(NOISY, 60, filter=name)["bias"][0] for name in ("paper", "predicted"))
    assert paper < -0.02
    assert abs(predicted) < 0.015


@pytest.mark.slow
def test_base():
    found = study(BASE, 200, bootstrap=400)
    assert (np.abs(found["bias"]) < 0.005).all()
    assert (found["rmse"] <= (0.020, 0.018)).all()
    assert ((found["cover"] >= 0.90) & (found["cover"] <= 0.98)).all()
    assert 0.055 <= found["width"][0] <= 0.080
    assert not any(law.flags.weakly_identified for law in found["laws"])


@pytest.mark.slow
def test_noisy():
    found = study(NOISY, 200, bootstrap=400)
    assert (np.abs(found["bias"]) < 0.012).all()
    assert found["rmse"][0] <= 0.048
    assert ((found["cover"] >= 0.89) & (found["cover"] <= 0.98)).all()
    assert study(NOISY, 200, filter="paper")["bias"][0] < -0.02


@pytest.mark.slow
def test_long_context():
    found = study(LONG, 200, bootstrap=400)
    assert (np.abs(found["bias"]) < 0.004).all()
    assert found["rmse"][0] <= 0.014
    assert ((found["cover"] >= 0.90) & (found["cover"] <= 0.98)).all()


@pytest.mark.slow
def test_narrow_design_is_flagged():
    assert all(law.flags.weakly_identified for law in study(NARROW, 200)["laws"])
