"""Which cells the law is fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from memlaw_jax.analysis import describe, fit_law
from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.errors import UserError

from .simulate import BASE, NOISY, simulate


@pytest.mark.parametrize("s", range(12))
def test_predicted_is_a_fixed_point_of_whole_cells(s):
    law = fit_law(simulate(NOISY, s), bootstrap=0)
    assert all(cell.runs_used in (0, cell.runs) for cell in law.cells)
    for cell in law.cells:
        assert cell.used == (not cell.reason)
        if law.flags.filter_settled:
            assert cell.used == (cell.loss_initial - cell.predicted > SATURATED)


def swinging():
    for s in range(200):
        law = fit_law(simulate(NOISY, s), bootstrap=0)
        if not law.flags.filter_settled:
            return law
    raise AssertionError("no seed of the noisy design makes the filter swing: the guard is untested")


def test_a_cycle_ends_drops_what_swings_and_is_said():
    law = swinging()
    edge = [cell for cell in law.dropped if "threshold" in cell.reason]
    assert edge
    # What swings is at ln 2 to within a few times the noise of a cell mean (about 0.05 nats).
    assert all(abs(cell.loss_initial - cell.predicted - SATURATED) < 0.15 for cell in edge)
    assert "threshold" in describe(law)


def test_without_noise_exactly_the_saturated_cells_go():
    design = BASE.without_noise()
    law = fit_law(simulate(design, 0), bootstrap=0)
    for cell in law.cells:
        assert cell.used == (design.initial - design.mean(cell.rank, cell.length) > SATURATED)


def test_paper_keeps_exactly_the_unsaturated_runs():
    frame = simulate(NOISY, 0)
    law = fit_law(frame, filter="paper", bootstrap=0)
    kept = frame[frame["loss_final"] > SATURATED].groupby(["rank", "length"]).size()
    assert {(c.rank, c.length): c.runs_used for c in law.used} == kept.to_dict()
    assert any(0 < c.runs_used < c.runs for c in law.cells)  # it splits cells: the source of its bias
    assert "biases" in describe(law)


def test_the_choice_of_cells_is_blind_to_seed_order_and_labels():
    frame = simulate(NOISY, 4)
    used = [cell.used for cell in fit_law(frame, bootstrap=0).cells]
    shuffled = frame.sample(frac=1, random_state=1).assign(seed=lambda f: f["seed"] + 100)
    assert [cell.used for cell in fit_law(shuffled, bootstrap=0).cells] == used


def test_an_unknown_filter_is_refused():
    with pytest.raises(UserError, match=r"'magic'.*predicted, paper"):
        fit_law(simulate(BASE, 0), filter="magic")


@pytest.mark.parametrize("name", ["predicted", "paper"])
def test_fewer_than_five_unsaturated_cells_are_refused(name):
    frame = simulate(BASE, 0)
    sole = (frame["rank"] <= 2) & (frame["length"] <= 2000)
    frame = frame[sole].copy()
    with pytest.raises(UserError, match="only 4 unsaturated cells"):
        fit_law(frame, filter=name)
    with pytest.raises(UserError, match="only 0 unsaturated cells"):
        fit_law(simulate(BASE, 0).assign(loss_final=0.1), filter=name)


def test_one_rank_or_one_length_is_refused():
    frame = simulate(BASE, 0)
    with pytest.raises(UserError, match=r"has rank 1; .* two ranks"):
        fit_law(frame[frame["rank"] == 1])
    with pytest.raises(UserError, match=r"has length 32000; .* two lengths"):
        fit_law(frame[frame["length"] == 32000])


def test_cells_on_one_line_cannot_tell_the_exponents_apart():
    frame = simulate(BASE.but(initial=100.0), 0)
    diagonal = {(1, 1000), (2, 2000), (4, 4000), (8, 8000), (16, 16000), (32, 32000)}
    frame = frame[[key in diagonal for key in zip(frame["rank"], frame["length"], strict=True)]]
    for name in ("predicted", "tobit"):
        with pytest.raises(UserError, match=r"6 unsaturated cells lie on one line .* cannot be told apart"):
            fit_law(frame, filter=name)


def test_a_loss_that_falls_the_wrong_way_is_refused():
    frame = simulate(BASE, 0)
    odd = frame.assign(loss_final=1.0 + 0.2 * np.log2(frame["rank"]) + 1000 / frame["length"], seed=range(len(frame)))
    with pytest.raises(UserError, match="does not rise with rank"):
        fit_law(odd)
