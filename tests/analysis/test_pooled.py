"""One law through the cells of several data sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from memlaw_jax.analysis import fit_law, pool, share_exponents
from memlaw_jax.errors import UserError


def runs(scale: float, noise: float, seed: int, alpha: float = 0.6) -> pd.DataFrame:
    """Cells of scale · (5 · r^alpha · ℓ^−0.5), b = 0.2, from 9 nats."""
    draw = np.random.default_rng(seed)
    rows = [
        {"rank": rank, "length": length, "loss_initial": 9.0, "seed": one,
         "loss_final": 9.0 - 0.2 - scale * 5 * rank**alpha * length**-0.5 - noise * draw.normal()}
        for rank in (1, 2, 4, 8) for length in (50, 100, 200, 400) for one in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_data_sets_of_one_law_give_that_law():
    laws = {"a": fit_law(runs(1, 0, 0), evidence=False), "b": fit_law(runs(1, 0, 1), evidence=False)}
    found = pool(laws)
    assert found.cells == 32 and found.names == ("a", "b")
    assert (found.alpha, found.beta, found.b, found.C) == pytest.approx((0.6, 0.5, 0.2, 5.0), rel=1e-5)
    assert found.r2 == pytest.approx(1) and found.mape == pytest.approx(0, abs=1e-8)


def test_of_one_data_set_it_is_its_own_law_with_an_interval_of_r2():
    law = fit_law(runs(1, 0.05, 0), evidence=False)
    found = pool({"a": law})
    for name in ("alpha", "beta", "b", "C", "r2", "mape"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=1e-6)
    low, high = found.intervals["r2"]
    assert low < found.r2 < 1 and low < high <= 1
    assert found.intervals["alpha"] == pytest.approx(law.interval("alpha"), abs=0.08)


def test_data_sets_of_different_scale_have_no_law_in_common():
    laws = {"a": fit_law(runs(1, 0.02, 0), evidence=False), "b": fit_law(runs(3, 0.02, 1), evidence=False)}
    found = pool(laws)
    assert min(laws["a"].r2, laws["b"].r2) > 0.99 > 0.8 > found.r2
    delta = np.array([cell.delta for law in laws.values() for cell in law.used])
    rank = np.array([cell.rank for law in laws.values() for cell in law.used], float)
    length = np.array([cell.length for law in laws.values() for cell in law.used], float)
    miss = delta - (found.C * rank**found.alpha * length**-found.beta + found.b)
    assert found.r2 == pytest.approx(1 - (miss**2).sum() / ((delta - delta.mean()) ** 2).sum(), rel=1e-6)
    assert found.mape == pytest.approx(np.abs(miss / delta).mean(), rel=1e-6)


def test_exponents_in_common_are_found_whatever_the_scales():
    laws = {str(scale): fit_law(runs(scale, 0.02, scale), evidence=False) for scale in (1, 2, 3)}
    found = share_exponents(laws)
    assert (found.alpha, found.beta) == pytest.approx((0.6, 0.5), abs=0.03)
    assert found.r2 > 0.99 and found.mape < 0.1 and found.p > 0.01 and found.cells == 48
    exact = {str(scale): fit_law(runs(scale, 0, 0), evidence=False) for scale in (1, 3)}
    assert (share_exponents(exact).alpha, share_exponents(exact).beta) == pytest.approx((0.6, 0.5), abs=1e-4)


def test_exponents_of_their_own_are_told_apart():
    laws = {
        "a": fit_law(runs(1, 0.02, 0), evidence=False),
        "b": fit_law(runs(1, 0.02, 1, alpha=0.9), evidence=False),
    }
    assert share_exponents(laws).p < 1e-4


def test_nothing_to_pool_is_refused():
    with pytest.raises(UserError, match="no law to pool"):
        pool({})
    with pytest.raises(UserError, match="two or more"):
        share_exponents({"a": fit_law(runs(1, 0, 0), evidence=False)})
