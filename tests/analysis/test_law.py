"""The Law itself: intervals, files, words, errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from memlaw_jax.analysis import Law, describe, fit_law
from memlaw_jax.analysis.cells import gather
from memlaw_jax.analysis.law.bootstrap import cell_bootstrap
from memlaw_jax.analysis.law.problem import of_cells
from memlaw_jax.analysis.law.varpro import solve
from memlaw_jax.errors import UserError

from .simulate import BASE, NARROW, NOISY, fit_cells, simulate


@pytest.fixture(scope="module")
def law():
    return fit_law(simulate(BASE, 0))


def timeless(law: Law) -> Law:
    return dataclasses.replace(law, created="")


def test_the_order_of_rows_changes_nothing(law):
    """To the last bit: estimates, draws, cells."""
    frame = simulate(BASE, 0)
    for seed in range(3):
        assert timeless(fit_law(frame.sample(frac=1, random_state=seed))) == timeless(law)


def test_the_seed_of_the_bootstrap_moves_intervals_and_nothing_else(law):
    other = fit_law(simulate(BASE, 0), seed=1)
    assert other.draws != law.draws
    assert dataclasses.replace(timeless(other), draws=None) == dataclasses.replace(timeless(law), draws=None)


def test_bootstrap_replicates_are_global_minima():
    """The warm-started fit of each resample equals the cold one from every valley, on the hardest design."""
    cells = gather(simulate(NARROW, 3))
    fit = fit_cells(cells)
    u, v = np.log(cells.rank / fit.rank_ref), np.log(cells.length / fit.length_ref)
    times = np.random.default_rng(0).multinomial(len(cells), np.full(len(cells), 1 / len(cells)), size=100)
    weights = times * cells.runs.astype(float)
    warm = solve(u, v, cells.delta, weights, warm=(fit.alpha, fit.beta))
    cold = solve(u, v, cells.delta, weights)
    # Sums of squares are compared because the exponents of a flat valley are only known to the root of rounding.
    np.testing.assert_allclose(warm.sse, cold.sse, rtol=1e-9)


def test_resamples_that_cannot_identify_a_law_are_redrawn_and_counted():
    frame = simulate(BASE.but(seeds=1), 0)
    five = {(1, 1000), (1, 2000), (1, 4000), (1, 8000), (2, 4000)}
    cells = gather(frame[[key in five for key in zip(frame["rank"], frame["length"], strict=True)]])
    fit = fit_cells(cells)
    problem = dataclasses.replace(of_cells(cells, fit.rank_ref, fit.length_ref), warm=(fit.alpha, fit.beta))
    draws = cell_bootstrap(problem, replicates=50, seed=0)
    assert len(draws) == 50 and draws.redrawn > 0
    assert np.isfinite([draws.c_ref, draws.alpha, draws.beta, draws.b]).all()


def test_intervals_hold_the_estimate_and_grow_with_level_and_noise(law):
    for name in ("C", "c_ref", "alpha", "beta", "b"):
        low, high = law.interval(name)
        assert low < getattr(law, name) < high
        inner = law.interval(name, level=0.5)
        assert low < inner[0] < inner[1] < high
    noisy = fit_law(simulate(NOISY, 0))
    assert np.ptp(noisy.interval("alpha")) > np.ptp(law.interval("alpha"))


def test_predict_is_the_law_and_broadcasts(law):
    assert law.predict(5, 3000) == pytest.approx(law.C * 5**law.alpha * 3000**-law.beta + law.b, rel=1e-12)
    ranks, lengths = np.array([[1], [2], [4]]), np.array([1000, 2000])
    assert law.predict(ranks, lengths).shape == (3, 2)
    with pytest.raises(UserError, match="positive"):
        law.predict(0, 100)


def test_json_round_trip_is_exact(law, tmp_path):
    paths = law.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["law.json", "fit_card.json"]
    assert Law.load(paths[0]) == law
    assert Law.load(tmp_path / "new" / "folder") == law
    bare = fit_law(simulate(BASE, 0), bootstrap=0)
    assert Law.from_dict(json.loads(json.dumps(bare.to_dict()))) == bare
    content = json.loads(paths[0].read_text())
    assert content["intervals"]["alpha"] == list(law.interval("alpha"))


def test_the_fit_card_reports_what_the_literature_asks_for(law, tmp_path):
    card = json.loads(law.save(tmp_path)[1].read_text())
    assert {"form", "data", "filter", "loss", "weights", "optimiser", "starts", "intervals", "versions", "date"} <= set(
        card
    )
    assert card["data"]["cells_used"] + len(card["data"]["dropped"]) == card["data"]["cells"] == 56
    assert all(cell["reason"] for cell in card["data"]["dropped"])
    assert card["intervals"]["replicates"] == 400 and card["data"]["seeds_per_cell"] == {"3": 56}


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "no JSON"), ("[1]", "no law of schema"), ('{"schema": 99}', "found 99"), ('{"schema": 2}', "incomplete")],
)
def test_a_broken_law_file_is_a_users_mistake(tmp_path, content, message):
    (tmp_path / "law.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Law.load(tmp_path)


def test_a_missing_law_and_an_impossible_folder(law, tmp_path):
    with pytest.raises(UserError, match="there is no"):
        Law.load(tmp_path / "nothing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        law.save(tmp_path / "file" / "below")


def test_intervals_that_do_not_exist(law):
    with pytest.raises(UserError, match="'gamma'"):
        law.interval("gamma")
    with pytest.raises(UserError, match="bootstrap=0"):
        fit_law(simulate(BASE, 0), bootstrap=0).interval("alpha")
    for wrong in (-1, 2.5, True):
        with pytest.raises(UserError, match="bootstrap is"):
            fit_law(simulate(BASE, 0), bootstrap=wrong)
    with pytest.raises(UserError, match="seed is -1"):
        fit_law(simulate(BASE, 0), seed=-1)


def test_methods_are_not_mixed():
    both = pd.concat([simulate(BASE, 0).assign(method="sft"), simulate(BASE, 1).assign(method="memft-ot")])
    with pytest.raises(UserError, match=r"2 methods \(memft-ot, sft\)"):
        fit_law(both)
    law = fit_law(both, method="sft", bootstrap=0)
    assert law.alpha == fit_law(simulate(BASE, 0), bootstrap=0).alpha and law.method == "sft"
    with pytest.raises(UserError, match="no method 'nope'"):
        fit_law(both, method="nope")
    with pytest.raises(UserError, match="no method column"):
        fit_law(simulate(BASE, 0), method="sft")


def test_diverged_runs_are_left_out_and_counted():
    good = simulate(BASE, 0).assign(method="sft", stopped="budget")
    bad = good[:3].assign(stopped="diverged", loss_final=float("nan"), seed=[7, 8, 9])
    law = fit_law(pd.concat([good, bad, bad[:1].assign(method="memft-ot")]), method="sft", bootstrap=0)
    assert law.diverged == 3 and law.alpha == fit_law(simulate(BASE, 0), bootstrap=0).alpha
    assert "3 diverged runs" in describe(law)


def test_runs_of_a_cell_that_differ_in_more_than_the_seed_are_noted():
    frame = simulate(BASE, 0)
    law = fit_law(frame.assign(learning_rate=np.where(frame["seed"] == 0, 0.01, 0.001)), bootstrap=0)
    assert "learning_rate" in law.notes[0] and "learning_rate" in describe(law)
    # A learning rate of its own for each rank mixes nothing.
    assert fit_law(frame.assign(learning_rate=0.01 / frame["rank"]), bootstrap=0).notes == ()


def test_words_name_the_numbers(law):
    text = describe(law, ln_vocab=2.0)
    low, high = law.interval("alpha")
    assert f"α = {law.alpha:.3f} [{low:.3f}, {high:.3f}]" in text
    assert f"Doubling the rank multiplies the learned part, ΔL − b, by {2**law.alpha:.2f}" in text
    assert f"Used {len(law.used)} of 56 cells" in text and "0.60 nats of ΔL are unlearning" in text
    assert "Warning" not in text
    assert "weakly identified" in describe(fit_law(simulate(NARROW, 0)))
    assert "no intervals" in describe(fit_law(simulate(BASE, 0), bootstrap=0))


def test_a_test_that_the_resamples_do_not_bear_out_is_said_to_be_doubtful(law):
    """The F test takes the noise for even over the cells, the bootstrap does not."""
    test = next(test for test in law.tests if test.name == "b = 0")
    assert "that b is zero is refuted (p" in describe(law)
    away = dataclasses.replace(law.draws, b=tuple(x - law.b for x in law.draws.b))
    assert test.p < 0.05 and "so perhaps not" in describe(dataclasses.replace(law, draws=away))


def test_quality_on_cell_means_and_the_seeds_spread():
    frame = simulate(BASE, 2)
    law = fit_law(frame, bootstrap=0)
    used = pd.DataFrame([dataclasses.asdict(cell) for cell in law.used])
    miss = used["delta"] - used["predicted"]
    assert law.rmse == pytest.approx(np.sqrt((miss**2).mean()))
    assert law.r2 == pytest.approx(1 - miss.var(ddof=0) / used["delta"].var(ddof=0), abs=1e-9)  # residuals average to 0
    n = len(used)
    assert law.aicc == pytest.approx(n * np.log((miss**2).mean()) + 10 + 60 / (n - 6))
    # ε has s_e = 0.02 and m μ up to 0.04; the pooled spread of 84 degrees of freedom lies well within.
    assert 0.02 < law.seed_sd < 0.045
    assert fit_law(frame[frame["seed"] == 0], bootstrap=0).seed_sd is None


def test_neither_jax_nor_matplotlib_is_imported():
    code = "import sys, memlaw_jax.analysis; print(sorted({'jax', 'flax', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
