"""Huber's loss: the equation it solves, the minimum it finds, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from memlaw_jax.analysis import fit_law
from memlaw_jax.analysis.law import robust, varpro
from memlaw_jax.analysis.law.outliers import outliers_suspected

from .simulate import BASE, NOISY, OUTLIERS, fit_cells, simulate


def rows(frame):
    u, v = (np.log(frame[x].to_numpy() / np.exp(np.log(frame[x]).mean())) for x in ("rank", "length"))
    return u, v, (frame["loss_initial"] - frame["loss_final"]).to_numpy()


def residual(found, u, v, y):
    return y - found.scale[0] * np.exp(found.alpha[0] * u - found.beta[0] * v) - found.offset[0]


def robust_sd(miss):
    """1.4826 × the median of |residual| without the four that a law of four parameters can bring to zero."""
    return 1.4826 * np.sort(np.abs(miss))[int(np.ceil((len(miss) + 4) / 2)) - 1]


@pytest.mark.parametrize("design", [BASE.but(initial=100.0), OUTLIERS.but(initial=100.0)], ids=["base", "outliers"])
@pytest.mark.parametrize("s", range(4))
def test_it_solves_hubers_equations(design, s):
    """Σ ψ(residual) · derivative = 0 for each parameter, with the robust scale of the same residuals."""
    u, v, y = rows(simulate(design, s))
    found, weights = robust.solve(u, v, y, np.ones((1, len(y))))
    miss = residual(found, u, v, y)
    far = weights[0] < 1
    scales = (weights[0] * np.abs(miss) / robust.K)[far]
    # The median of absolute residuals jumps from run to run, so a scale may lie between two of them.
    assert scales == pytest.approx(robust_sd(miss), rel=0.02)
    assert (np.abs(miss[~far]) <= robust.K * scales.max() * (1 + 1e-6)).all()
    slopes = varpro.tangents(u, v, found.scale[0], found.alpha[0], found.beta[0])
    # Rounds end when an exponent moves by less than 1e-9.
    assert np.abs((weights[0] * miss) @ slopes / np.linalg.norm(slopes, axis=0)).max() < 1e-6


@pytest.mark.parametrize("s", range(4))
def test_no_start_of_scipy_finds_less(s):
    u, v, y = rows(simulate(OUTLIERS, s))
    found, _ = robust.solve(u, v, y, np.ones((1, len(y))))
    scale = robust_sd(residual(found, u, v, y))
    reach = robust.K * scale

    def miss(p):
        return y - p[0] * np.exp(p[1] * u - p[2] * v) - p[3]

    ours = robust.objective(residual(found, u, v, y)[None], np.ones((1, len(y))), np.array([scale]))[0]
    rng = np.random.default_rng(s)
    for _ in range(6):
        start = (rng.uniform(0.1, 3), *rng.uniform(0.1, 2, 2), rng.uniform(-1, 1))
        theirs = least_squares(miss, start, loss="huber", f_scale=reach).cost / scale**2
        assert ours <= theirs * (1 + 1e-6)


def test_without_outliers_it_is_nearly_least_squares():
    """Within a third of a standard error (0.017), and exact on exact data."""
    squares, robust_law = (fit_law(simulate(BASE, 5), loss=loss, bootstrap=0) for loss in ("squared", "huber"))
    assert abs(squares.alpha - robust_law.alpha) < 0.006
    clean = BASE.without_noise()
    law = fit_law(simulate(clean, 0), loss="huber", bootstrap=0)
    assert abs(law.alpha - clean.alpha) < 1e-6 and abs(law.beta - clean.beta) < 1e-6


def test_a_wild_run_moves_it_no_further_than_a_bad_one():
    """Its influence is bounded: least squares follows the run, Huber's loss does not."""
    frame = simulate(BASE, 1)
    moved = {}
    for loss in ("squared", "huber"):
        laws = []
        for final in (2.2, 2.6):  # ΔL = 0.4 and 0 where 1.4 would be right
            bent = frame.copy()
            bent.loc[(bent["rank"] == 16) & (bent["length"] == 8000) & (bent["seed"] == 0), "loss_final"] = final
            laws.append(fit_law(bent, loss=loss, bootstrap=0))
        moved[loss] = abs(laws[0].alpha - laws[1].alpha)
    assert moved["huber"] < 1e-3 < moved["squared"]


def test_replicates_re_weight_by_their_own_residuals():
    """A warm replicate is the cold solution of its own resample."""
    u, v, y = rows(simulate(OUTLIERS, 3))
    times = np.random.default_rng(0).multinomial(len(y), np.full(len(y), 1 / len(y)), size=12).astype(float)
    cold, cold_weights = robust.solve(u, v, y, times)
    warm, warm_weights = robust.solve(u, v, y, times, warm=(0.6, 0.5))
    np.testing.assert_allclose(warm.alpha, cold.alpha, atol=1e-4)
    drawn = times > 0
    assert (np.ptp((warm_weights / np.where(drawn, times, 1)), axis=0) > 0.01).any()  # the weights are not shared
    np.testing.assert_allclose(warm_weights[drawn], cold_weights[drawn], atol=2e-3)


def test_a_few_runs_are_not_enough_to_suspect_one():
    frame = simulate(BASE.but(seeds=1), 0).query("loss_final > 0.7")[:11]
    frame.loc[frame.index[5], "loss_final"] += 0.5
    law = fit_law(frame, bootstrap=0)
    assert not law.flags.outliers_suspected


def test_suspicion_does_not_depend_on_units():
    frame = simulate(OUTLIERS, 0)
    law = fit_law(frame, bootstrap=0)
    assert law.flags.outliers_suspected
    assert not fit_law(simulate(NOISY, 0), bootstrap=0).flags.outliers_suspected
    assert outliers_suspected(_estimate(frame), frame) == outliers_suspected(_estimate(frame), frame.sample(frac=1))


def _estimate(frame):
    from memlaw_jax.analysis.cells import gather

    return fit_cells(gather(frame))


def test_with_few_runs_it_does_not_go_through_them():
    """Four parameters bring four residuals to zero; a median over all of few would take the noise for none."""
    frame = simulate(NOISY.but(ranks=(1, 4), lengths=(4000, 8000, 16000, 32000), seeds=1, initial=100.0), 0)
    squares, huber = (fit_law(frame, loss=loss, bootstrap=1) for loss in ("squared", "huber"))
    assert huber.alpha == pytest.approx(squares.alpha, abs=0.05)
    for one, other in zip(squares.tests, huber.tests, strict=True):
        assert other.statistic < 10 * one.statistic + 1
