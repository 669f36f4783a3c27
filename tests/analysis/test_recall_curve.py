"""The recall curve: Firth's penalty, separation, monotony, dispersion."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from memlaw_jax.analysis.planning.recall_curve import dispersion, firth, fit_curve, headroom_for


def penalised(x, share, trials):
    """Firth's estimate by a general-purpose optimiser, straight from its definition."""

    def loss(at):
        eta = at[0] + at[1] * x
        weight = trials * expit(eta) * expit(-eta)
        design = np.stack([np.ones_like(x), x], axis=1)
        _, logdet = np.linalg.slogdet(design.T @ (weight[:, None] * design))
        return -(trials * (share * eta - np.logaddexp(0, eta))).sum() - logdet / 2

    return minimize(loss, [0.0, 0.1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9000}).x


@pytest.mark.parametrize("case", ["overlap", "separated", "samples"])
def test_it_is_the_maximum_of_the_penalised_likelihood(case):
    rng = np.random.default_rng([1, 2026])
    x = np.linspace(-1, 1, 15)
    trials = np.full(15, 30.0 if case == "samples" else 1.0)
    chance = expit(1 + 4 * x)
    share = (x > 0.1).astype(float) if case == "separated" else rng.binomial(trials.astype(int), chance) / trials
    intercept, slope = firth(x[None], share, trials[None])
    # Nelder-Mead finds the top to about the root of rounding.
    np.testing.assert_allclose([intercept[0], slope[0]], penalised(x, share, trials), rtol=1e-5)


def test_units_of_headroom_change_nothing():
    """The penalty knows no unit: shifted and stretched, the curve says the same of each cell."""
    x, share, trials = np.array([0.0, 1, 2, 3, 4]), np.array([0, 0.1, 0.4, 1, 1]), np.full(5, 10.0)
    moved = 1000 + x / 250
    a, b = (fit_curve(y, share, trials) for y in (x, moved))
    assert [a.at(y) for y in x] == pytest.approx([b.at(y) for y in moved], abs=1e-7)


def test_separation_has_a_finite_answer_between_the_two_sides():
    x, share = np.array([-3.0, -2, -1, 0, 1, 2]), np.array([0.0, 0, 0, 0, 1, 1])
    curve = fit_curve(x, share, np.ones(6))
    assert curve.separated and 0 < curve.slope < 20
    middle = float(headroom_for(0.5, np.array([curve.intercept]), np.array([curve.slope]))[0])
    assert -1 < middle < 2 and curve.at(-3) < 0.1
    assert not fit_curve(x, share[::-1], np.ones(6)).separated  # the wrong way round is no threshold
    assert not fit_curve(x, np.array([0, 0, 0.2, 0.8, 1, 1]), np.ones(6)).separated


def test_recall_never_falls_with_headroom():
    """Where the data fall the curve is flat, at the level it has without a slope; so no recall above it is reached."""
    x, share, trials = np.array([0.0, 1, 2, 3]), np.array([0.9, 0.6, 0.4, 0.1]), np.full(4, 20.0)
    curve = fit_curve(x, share, trials)
    assert curve.slope == 0 and curve.at(-9) == curve.at(9) == pytest.approx(0.5)
    line = np.array([curve.intercept]), np.array([curve.slope])
    assert headroom_for(0.6, *line)[0] == np.inf and headroom_for(0.4, *line)[0] == -np.inf


def test_one_headroom_or_one_cell_gives_a_level():
    for x in (np.zeros(3), np.zeros(1)):
        intercept, slope = firth(x[None], np.full(len(x), 0.5), np.full((1, len(x)), 4.0))
        assert slope[0] == 0 and intercept[0] == pytest.approx(0)


def test_the_curve_and_its_inverse_agree():
    line = np.array([-2.0]), np.array([5.0])
    curve = fit_curve(np.linspace(-1, 1, 9), expit(-2 + 5 * np.linspace(-1, 1, 9)), np.full(9, 1e6))
    # A million samples a cell leave the penalty, worth about one, nothing to say.
    assert (curve.intercept, curve.slope) == pytest.approx((-2, 5), rel=1e-4)
    assert expit(-2 + 5 * headroom_for(0.9, *line)[0]) == pytest.approx(0.9)
    assert logit(0.9) == pytest.approx(-2 + 5 * headroom_for(0.9, *line)[0])


def test_cells_and_not_samples_are_the_unit():
    """Samples that fail together count for fewer, though a cell for no less than one."""
    rng = np.random.default_rng([2, 2026])
    x, trials = np.tile(np.linspace(-1, 1, 10), 6), np.full(60, 200.0)
    alone = rng.binomial(200, expit(3 * x)) / 200
    together = rng.binomial(200, expit(3 * x + rng.standard_normal(60))) / 200
    # χ²(58)/58 stays within 1 ± 0.4 in 97 of 100 draws; with that cell effect the variance is some 30 times as large.
    assert dispersion(x, alone, trials) < 1.4
    assert 10 < dispersion(x, together, trials) < 100
    assert dispersion(x, rng.integers(0, 2, 60).astype(float), trials) <= 200
    assert dispersion(x[:2], alone[:2], trials[:2]) == 1


def test_rows_are_independent_of_each_other():
    """A batch of resamples is what each gives alone."""
    rng = np.random.default_rng([3, 2026])
    x, share = rng.standard_normal((20, 12)), rng.uniform(size=12)
    trials = rng.multinomial(12, np.full(12, 1 / 12), size=20) * 5.0
    intercepts, slopes = firth(x, share, trials)
    for i in range(20):
        one = firth(x[i : i + 1], share, trials[i : i + 1])
        # Each row stops once the slowest of its batch has settled, so rows alone are some steps short.
        np.testing.assert_allclose([intercepts[i], slopes[i]], [one[0][0], one[1][0]], atol=1e-6)
