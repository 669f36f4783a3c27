"""Profiles, tests of simpler laws and the jackknife against fits written out."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from memlaw_jax.analysis import Law, fit_law

from .simulate import BASE, NARROW, NOISY, OUTLIERS, simulate


@pytest.fixture(scope="module")
def law():
    return fit_law(simulate(BASE, 3), bootstrap=20)


def table(law):
    cells = law.used
    x = np.array([[cell.rank / law.rank_ref, cell.length / law.length_ref] for cell in cells], float).T
    return x, np.array([cell.delta for cell in cells]), np.array([cell.runs_used for cell in cells], float)


def least(law, model, start):
    x, y, runs = table(law)
    p, _ = curve_fit(model, x, y, start, sigma=1 / np.sqrt(runs), xtol=1e-14, ftol=1e-14)
    return float((runs * (y - model(x, *p)) ** 2).sum())


def full(x, c, a, b, d):
    return c * x[0] ** a * x[1] ** -b + d


def test_deviances_are_those_of_scipys_constrained_fits(law):
    n, best = len(law.used), least(law, full, (1, 0.5, 0.5, 0.3))
    profile = {profile.name: profile for profile in law.profiles}
    for name, held, start in (
        ("alpha", lambda value: lambda x, c, b, d: full(x, c, value, b, d), (1, 0.5, 0.3)),
        ("beta", lambda value: lambda x, c, a, d: full(x, c, a, value, d), (1, 0.5, 0.3)),
        ("b", lambda value: lambda x, c, a, b: full(x, c, a, b, value), (1, 0.5, 0.5)),
    ):
        for i in (0, 5, -3):
            value, told = profile[name].values[i], profile[name].deviance[i]
            assert told == pytest.approx(n * np.log(least(law, held(value), start) / best), abs=1e-5)


def test_intervals_end_at_the_threshold_and_hold_the_estimate(law):
    n = len(law.used)
    for profile in law.profiles:
        at = getattr(law, profile.name)
        assert profile.low < at < profile.high
        assert np.interp(profile.low, profile.values, profile.deviance) == pytest.approx(profile.threshold, rel=0.05)
        assert np.interp(at, profile.values, profile.deviance) == pytest.approx(0, abs=1e-9)
        assert profile.threshold == pytest.approx(n * np.log(1 + stats.f.ppf(0.95, 1, n - 4) / (n - 4)))
        falling, rising = np.split(np.array(profile.deviance), [int(np.argmin(profile.deviance))])
        assert (np.diff(falling) <= 1e-9).all() and (np.diff(rising) >= -1e-9).all()


def test_tests_are_f_tests_of_the_constrained_fits(law):
    n, best = len(law.used), least(law, full, (1, 0.5, 0.5, 0.3))
    forms = {
        "b = 0": (1, lambda x, c, a, b: full(x, c, a, b, 0.0), (1, 0.5, 0.5)),
        "α = β": (1, lambda x, c, a, d: full(x, c, a, a, d), (1, 0.5, 0.3)),
        "α = β = 1": (2, lambda x, c, d: full(x, c, 1.0, 1.0, d), (1, 0.3)),
    }
    for test in law.tests:
        count, model, start = forms[test.name]
        statistic = (least(law, model, start) / best - 1) * (n - 4) / count
        assert test.df == (count, n - 4)
        assert test.statistic == pytest.approx(statistic, rel=1e-5)
        assert test.p == pytest.approx(stats.f.sf(statistic, count, n - 4), rel=1e-3)


def test_an_interval_that_does_not_close_has_no_end():
    law = fit_law(simulate(NARROW.but(s_e=0.2, s_u=0.1), 1), bootstrap=1)
    assert any(profile.low is None or profile.high is None for profile in law.profiles)


@pytest.mark.parametrize("options", [{}, {"loss": "huber"}, {"filter": "tobit"}], ids=["squares", "huber", "tobit"])
def test_the_jackknife_is_what_leaving_out_gives(options):
    """Fitted again without each rank, by hand; Tobit keeps all cells."""
    frame = simulate(BASE.but(initial=100.0), 4)  # nothing is saturated, so a filter cannot differ between fits
    law = fit_law(frame, bootstrap=1, **options)
    units = {"rank": law.jackknife.ranks} | ({} if options else {"cell": law.jackknife.cells})
    for unit, told in units.items():
        keys = frame["rank"] if unit == "rank" else frame["rank"] * 100_000 + frame["length"]
        names = keys.unique() if unit == "rank" else keys.unique()[:56]
        parts = [fit_law(frame[keys != name], bootstrap=0, **options) for name in names]
        for name in ("alpha", "beta", "b"):
            values = np.array([getattr(part, name) for part in parts])
            assert told[name] == pytest.approx(np.sqrt((len(values) - 1) * values.var()), rel=2e-3)


def test_jackknife_and_bootstrap_agree_about_the_size_of_the_error():
    law = fit_law(simulate(NOISY, 2), bootstrap=300)
    for name in ("alpha", "beta", "b"):
        assert 0.6 < law.jackknife.cells[name] / law.draw(name).std() < 1.6


def test_two_ranks_have_no_jackknife_by_rank():
    frame = simulate(BASE, 0)
    law = fit_law(frame[frame["rank"].isin([1, 4])], bootstrap=1)
    assert law.jackknife.ranks["alpha"] is None and law.jackknife.cells["alpha"] > 0


def test_the_ellipse_holds_its_share_of_the_draws():
    law = fit_law(simulate(BASE, 0), bootstrap=400)
    centre, covariance, radius = law.ellipse(0.95)
    draws = np.stack([law.draw("alpha"), law.draw("beta")], axis=1) - np.array(centre)
    inside = (np.einsum("mi,ij,mj->m", draws, np.linalg.inv(covariance), draws) <= radius).mean()
    assert 0.90 < inside < 0.99


def test_a_huber_laws_profile_is_centred_on_it():
    law = fit_law(simulate(OUTLIERS, 0), loss="huber", bootstrap=1)
    for profile in law.profiles:
        assert np.interp(getattr(law, profile.name), profile.values, profile.deviance) < 1e-3


def test_exact_data_have_no_interval_and_no_crash():
    """What is left is rounding, of which no threshold can be asked."""
    for options in ({}, {"loss": "huber"}, {"filter": "tobit"}, {"filter": "paper"}):
        law = fit_law(simulate(BASE.without_noise(), 0), bootstrap=20, **options)
        assert law.flags.converged and abs(law.alpha - BASE.alpha) < 1e-6
        assert Law.from_dict(json.loads(json.dumps(law.to_dict(), allow_nan=False))) == law
        assert all(np.isfinite(profile.deviance).all() for profile in law.profiles)


def test_noise_alone_refutes_no_simpler_law():
    """A law that would need a negative C is a constant at best, not an impossibility."""
    rng = np.random.default_rng(0)
    rows = [(r, n, 9.0, 6.0 + rng.normal(0, 0.3)) for r, n in itertools.product((1, 2, 4, 8), (100, 200, 400))]
    frame = pd.DataFrame(rows, columns=["rank", "length", "loss_initial", "loss_final"])
    for options in ({}, {"loss": "huber"}):
        law = fit_law(frame, bootstrap=20, **options)
        assert all(test.p > 0.05 for test in law.tests if test.name != "b = 0")


def test_a_censored_law_takes_cells_not_runs_for_evidence():
    """Seeds of one cell agree to a hundredth of what cells scatter: 20 seeds are worth little more than one."""
    design = NARROW.but(initial=100.0, s_u=0.05, s_e=0.0005, m=0.0, seeds=20)
    squares, tobit = (fit_law(simulate(design, 1), filter=name, bootstrap=1) for name in ("predicted", "tobit"))
    for one, other in zip(squares.tests, tobit.tests, strict=True):
        assert other.p > one.p / 3  # taken for independent the 240 runs gave p below 1e-6
