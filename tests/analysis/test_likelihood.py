"""Profiles, tests of simpler laws and the jackknife against fits written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import curve_fit

from memlaw_jax.analysis import fit_law

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
