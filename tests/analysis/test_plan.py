"""The planner on sweeps whose law and recall curve are known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from memlaw_jax.analysis import fit_law
from memlaw_jax.analysis.planning.plan import plan
from memlaw_jax.analysis.planning.plan_reach import reach
from memlaw_jax.analysis.planning.plan_words import describe_plan
from memlaw_jax.errors import UserError

from .simulate import BASE
from .simulate_recall import EXPOSURES, INTERCEPT, PER_RANK, SLOPE, quick_law, true_rank, with_recall


@pytest.fixture(scope="module")
def law():
    return quick_law(with_recall())


@pytest.fixture(scope="module")
def text_law():
    return quick_law(with_recall(single=True))


@pytest.fixture(scope="module")
def plain_law():
    """From a table with the four needed columns only."""
    return quick_law(with_recall()[["rank", "length", "seed", "loss_initial", "loss_final"]])


def covered(*, single: bool, tokens: int, recall: float, sweeps: int, start: int = 0) -> int:
    """In how many sweeps the interval holds the true rank."""
    truth, hits = true_rank(BASE, tokens, recall), 0
    for s in range(start, start + sweeps):
        low, high = plan(quick_law(with_recall(s=s, single=single)), tokens=tokens, recall=recall).interval
        hits += low <= truth and (high is None or truth <= high)
    return hits


@pytest.mark.parametrize("single", [False, True])
def test_the_interval_holds_the_true_rank(single):
    """At a coverage of 0.93 fewer than 7 of 10 happen in 4 of 1000 such tests."""
    assert covered(single=single, tokens=8000, recall=0.9, sweeps=10) >= 7


@pytest.mark.slow
@pytest.mark.parametrize(("single", "tokens", "recall"), [(False, 8000, 0.95), (True, 8000, 0.5), (True, 2000, 0.99)])
def test_the_interval_covers_at_its_nominal_share(single, tokens, recall):
    """Binomial(60, 0.93): fewer than 49 happen once in 1200 such tests; if it covered 0.80 only, in half of them."""
    assert covered(single=single, tokens=tokens, recall=recall, sweeps=60, start=100) >= 49


def test_without_noise_the_planned_rank_is_the_true_one():
    """Shares are exact and a million samples drown the penalty, so law and curve are the true ones."""
    design = BASE.without_noise().but(initial=9.0)
    frame = with_recall(design)
    h = np.log((design.mean(frame["rank"], frame["length"]) - design.b) / (design.initial - design.b))
    frame = frame.assign(exact_match=1 / (1 + np.exp(-INTERCEPT - SLOPE * h)), samples=10**6)
    exact = fit_law(frame, bootstrap=0)
    for tokens, recall in ((1000, 0.5), (4000, 0.9), (20000, 0.99)):
        truth = true_rank(design, tokens, recall)
        # Ranks are rounded up, so one of a hair's breadth is another whole rank.
        assert abs(plan(exact, tokens=tokens, recall=recall).rank - truth) <= 1 + 1e-3 * truth


def test_the_rank_is_the_smallest_that_reaches_the_recall(law):
    found = plan(law, tokens=6000, recall=0.8)
    assert found.predicted_recall >= 0.8
    part = law.predict(np.array([found.rank - 1, found.rank]), 6000) - law.b
    recalls = [found.curve.at(np.log(x / (found.loss_initial - law.b))) for x in part]
    assert recalls[0] < 0.8 <= recalls[1] == pytest.approx(found.predicted_recall)


def test_more_tokens_or_more_recall_never_take_less_rank(law, text_law):
    for one in (law, text_law):
        for asked in (
            [{"tokens": n} for n in (1, 50, 1000, 5000, 20000, 10**6)],
            [{"tokens": 4000, "recall": p} for p in (0.01, 0.3, 0.5, 0.9, 0.99, 0.999)],
        ):
            found = [plan(one, **each) for each in asked]
            for values in ([p.rank for p in found], *zip(*(p.interval for p in found), strict=True)):
                known = [np.inf if value is None else value for value in values]
                assert known == sorted(known) and known[0] >= 1
            assert found[0].rank < found[-1].rank


def test_the_seed_draws_the_cells(law):
    assert plan(law, tokens=4000) == plan(law, tokens=4000)
    other = plan(law, tokens=4000, seed=1)
    assert other.rank == plan(law, tokens=4000).rank and other.interval != plan(law, tokens=4000).interval


def test_a_plan_is_plain_json(law, plain_law):
    for one in (law, plain_law, fit_law(with_recall(), bootstrap=0)):
        content = json.loads(json.dumps(dataclasses.asdict(plan(one, tokens=4000)), allow_nan=False))
        assert content["tokens"] == 4000 and content["warnings"] is not None


def test_size_and_training_follow_the_measured_cells(law, text_law):
    found = plan(law, tokens=6000, recall=0.9)
    assert found.effective_parameters == PER_RANK * found.rank
    assert (found.bytes_float32, found.bytes_bfloat16) == (4 * PER_RANK * found.rank, 2 * PER_RANK * found.rank)
    assert found.budget.exposures == EXPOSURES and not found.budget.whole
    assert found.budget.steps == 6000 * EXPOSURES // 40 and found.budget.token_visits == 6000 * EXPOSURES
    text = plan(text_law, tokens=6000, recall=0.9)
    assert text.budget.whole and text.budget.steps == EXPOSURES  # a step sees the whole text, however long
    assert "all tokens" in describe_plan(text) and "probability" in describe_plan(text)


def test_what_was_measured_stands_beside_it():
    frame = with_recall()
    frame["exact_match"] = (frame["rank"] >= 16) * 0.99 + (frame["rank"] == 64) * 0.01
    found = plan(quick_law(frame), tokens=10_000, recall=0.95)
    assert (found.succeeded.rank, found.succeeded.length) == (16, 12_000)
    assert (found.failed.rank, found.failed.length) == (8, 8000)
    assert "rank 16 recalled 99 % of the samples of 12,000 tokens (3 runs of 1,200 samples)" in describe_plan(found)
    assert plan(fit_law(frame, bootstrap=0), tokens=40_000).succeeded is None


def test_it_says_when_and_how_far_it_extrapolates(law):
    near = plan(law, tokens=1500, recall=0.5)
    assert (near.reach.rank_factor, near.reach.tokens_factor, near.reach.inside) == (1, 1, True)
    assert "extrapolation" not in describe_plan(near)
    far = plan(law, tokens=96_000)
    assert far.reach.tokens_factor == 3 and far.reach.rank_factor == far.rank / 64 and not far.reach.inside
    words = describe_plan(far)
    assert "96,000 tokens is 3 times the longest length measured" in words
    assert f"{far.rank / 64:.3g} times the largest rank measured" in words
    assert "of the shortest length measured" in describe_plan(plan(law, tokens=100))


def test_a_hole_in_the_grid_is_an_extrapolation_too(law):
    """Small ranks on short texts and large ones on long texts: rank and length alone are measured, together not."""
    cells = [cell for cell in law.cells if 0.1 < cell.rank / cell.length * 1000 < 10]
    inside, outside = reach(cells, 8000, 8), reach(cells, 1000, 64)
    assert inside.inside and inside.nearest == (8, 8000)
    assert not outside.inside and (outside.rank_factor, outside.tokens_factor) == (1, 1)
    line = [cell for cell in law.cells if cell.length == 1000 * cell.rank]
    assert len(line) > 3 and reach(line, 3000, 3).inside and not reach(line, 3000, 4).inside


def test_all_or_nothing_recall_is_survived():
    """A single text without luck: no rank below a threshold recalls it, every rank above does."""
    frame = with_recall(single=True)
    frame["exact_match"] = (frame["rank"] >= 1e-3 * frame["length"]).astype(float)
    found = plan(quick_law(frame), tokens=8000, recall=0.9)
    assert found.curve.dispersion == 1 and 4 < found.rank < 100 and found.interval[0] <= found.rank
    assert found.succeeded.rank == 8 and found.failed.rank == 4
    apart = frame.assign(exact_match=(frame["rank"] ** 1.2 >= 2e-3 * frame["length"]).astype(float))
    found = plan(quick_law(apart), tokens=8000, recall=0.99)
    assert found.curve.separated and "all or nothing" in describe_plan(found)


def test_without_measured_recall_the_goal_is_weaker_and_said_first(plain_law):
    found = plan(plain_law, tokens=4000)
    assert found.goal == "final_loss" and found.curve is None and found.predicted_recall is None
    assert found.rank == found.rank_ln2 and found.interval[0] <= found.rank <= found.interval[1]
    assert found.predicted_final <= np.log(2) < found.loss_initial - plain_law.predict(found.rank - 1, 4000)
    words = describe_plan(found)
    assert words.startswith("Recall cannot be planned: the results have no column exact_match.")
    assert "not known" in words and found.budget is None and found.bytes_float32 is None
    assert plan(plain_law, tokens=4000, recall=0.5).rank == found.rank


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_recall_that_never_varies_says_nothing_of_rank(value):
    found = plan(fit_law(with_recall().assign(exact_match=value), bootstrap=0), tokens=4000)
    assert found.goal == "final_loss" and f"a recall of {value:g}" in found.why


def test_some_cells_without_recall_are_left_out_and_counted(law):
    frame = with_recall()
    frame.loc[frame["rank"] == 4, "exact_match"] = np.nan
    found = plan(fit_law(frame, bootstrap=0), tokens=4000, recall=0.9)
    assert found.goal == "recall" and found.curve.cells == 48
    assert any("8 of 56 cells" in text for text in found.warnings)


def test_a_recall_never_seen_is_an_extrapolation():
    frame = with_recall()
    frame["exact_match"] *= 0.5
    found = plan(quick_law(frame), tokens=4000, recall=0.9)
    assert any("no cell recalled 90 %" in text for text in found.warnings)


def test_recall_that_falls_with_rank_gives_no_rank():
    frame = with_recall().assign(exact_match=lambda d: 0.9 / d["rank"])
    found = plan(quick_law(frame), tokens=4000)
    assert found.rank is None and found.interval[1] is None and found.unreachable == 1
    assert found.effective_parameters is None and found.predicted_final is None
    assert "no plan" in describe_plan(found) and "does not rise" in describe_plan(found)


def test_a_law_without_draws_gives_no_interval(law):
    found = plan(fit_law(with_recall(), bootstrap=0), tokens=4000)
    assert found.interval is None and found.draws == 0 and found.rank == plan(law, tokens=4000).rank
    assert "bootstrap=0" in describe_plan(found)


def test_the_laws_own_cautions_are_passed_on(law):
    flags = dataclasses.replace(
        law.flags, converged=False, at_bound=True, weakly_identified=True, outliers_suspected=True
    )
    words = describe_plan(plan(dataclasses.replace(law, flags=flags, notes=("Mixed.",)), tokens=4000))
    for text in ("did not converge", "edge of its allowed range", "weakly identified", "lie far from", "Mixed."):
        assert text in words


def test_a_better_rival_is_named():
    whole = fit_law(with_recall(), bootstrap=20)
    ours, rival, *others = whole.rivals.entries
    entries = (
        dataclasses.replace(ours, aicc=rival.aicc + 9, delta_aicc=9.0),
        dataclasses.replace(rival, aicc=rival.aicc - 3, delta_aicc=0.0),
        *others,
    )
    behind = dataclasses.replace(whole, rivals=dataclasses.replace(whole.rivals, entries=entries[:2]))
    assert f"another form, {rival.title}, describes" in describe_plan(plan(behind, tokens=4000))
    assert "another form" not in describe_plan(plan(whole, tokens=4000))  # the truth is the law


@pytest.mark.parametrize("tokens", [0, -3, 1.5, True, None])
def test_tokens_must_be_whole_and_positive(law, tokens):
    with pytest.raises(UserError, match=rf"tokens is {tokens};"):
        plan(law, tokens=tokens)


@pytest.mark.parametrize("recall", [0, 1, 1.2, -0.1, float("nan"), "0.9"])
def test_recall_must_lie_between_0_and_1(law, recall):
    with pytest.raises(UserError, match=rf"recall is {recall};"):
        plan(law, tokens=100, recall=recall)
