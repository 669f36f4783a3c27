"""Methods side by side: intervals by hand, what is paired, equal compute, and words that follow the numbers."""

from __future__ import annotations

import json
import struct

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from memlaw_jax.analysis import (
    best_rates,
    compare_methods,
    describe_methods,
    describe_rates,
    draw_methods,
    methods_table,
)
from memlaw_jax.analysis.comparison.methods import t_interval
from memlaw_jax.analysis.comparison.methods_words import notes, overall_verdict, regimes, verdict
from memlaw_jax.analysis.figures import save
from memlaw_jax.errors import UserError

# {method: {rank: exact match of seeds 0, 1, 2}}; nobody is in transition at ranks 2 and 32.
BOOK = {
    "sft": {2: [0, 0, 0], 8: [0.20, 0.26, 0.24], 16: [0.90, 0.96, 0.98], 32: [1, 1, 1]},
    "memft-sw": {2: [0, 0, 0], 8: [0.52, 0.62, 0.60], 16: [1, 1, 1], 32: [1, 1, 1]},
    "memft-ot": {2: [0, 0, 0], 8: [0.26, 0.18, 0.28], 16: [0.96, 0.92, 1], 32: [1, 1, 1]},
}
MAIN = ("phonebook", 500)


def frame(values, measure="exact_match", **columns):
    rows = [
        {"method": method, "rank": rank, "seed": seed, "dataset": f"data{seed}", measure: value}
        for method, ranks in values.items()
        for rank, runs in ranks.items()
        for seed, value in enumerate(runs)
    ]
    usual = {"task": "phonebook", "length": 500, "samples": 50, "learning_rate": 0.01, "token_visits": 100_000}
    return pd.DataFrame(rows).assign(**(usual | {"loss_initial": 3.0, "loss_final": 1.0} | columns))


def row(table, **key):
    found = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


def renamed(values, **names):
    return {names.get(method.replace("-", "_"), method): ranks for method, ranks in values.items()}


def test_the_intervals_by_hand():
    found = compare_methods(frame(BOOK))
    sft, sw = (np.array([BOOK[method][rank] for rank in (8, 16)], float) for method in ("sft", "memft-sw"))
    mean = row(found.means, method="sft", rank=8)
    ends = stats.t.interval(0.95, 2, loc=sft[0].mean(), scale=stats.sem(sft[0]))
    assert (mean["mean"], mean["low"], mean["high"]) == pytest.approx((sft[0].mean(), *ends))
    assert row(found.means, method="sft", rank=16)["high"] == 1  # the interval itself goes on to 1.05
    apart = row(found.differences, method="memft-sw", rank=8)
    ends = stats.ttest_rel(sw[0], sft[0]).confidence_interval(0.95)
    assert (apart["mean"], apart["low"], apart["high"]) == pytest.approx(((sw - sft)[0].mean(), *ends))
    assert (apart["pairs"], apart["wins"], apart["ties"], apart["losses"]) == (3, 3, 0, 0)
    # Over the ranks in transition: each seed's mean over both, then t of the three.
    seeds = (sw - sft).mean(axis=0)
    ends = stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
    pool = row(found.pooled, method="memft-sw")
    assert pool["ranks"] == (8, 16) and pool["seeds"] == 3 and pool["incomplete"] == ()
    assert (pool["mean"], pool["low"], pool["high"]) == pytest.approx((seeds.mean(), *ends))
    assert (pool["pairs"], pool["wins"], pool["ties"], pool["losses"]) == (12, 6, 6, 0)
    pool = row(found.pooled, method="memft-ot")
    assert (pool["wins"], pool["ties"], pool["losses"]) == (4, 6, 2)


def test_the_worst_token_is_compared_by_factors():
    values = {"sft": {4: [1e-4, 2e-4, 1e-3]}, "memft-ot": {4: [2e-4, 4e-4, 4e-3]}}
    found = compare_methods(frame(values, "p_min"))
    apart = row(found.differences, measure="p_min", rank=4)
    logs = np.log10([2.0, 2.0, 4.0])
    ends = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (apart["mean"], apart["low"], apart["high"]) == pytest.approx((logs.mean(), *ends))
    assert f"×{10 ** logs.mean():.2g}" in describe_methods(found)
    assert row(found.means, method="sft")["mean"] == pytest.approx(np.log10([1e-4, 2e-4, 1e-3]).mean())


def test_runs_without_spread_have_no_interval():
    assert np.isnan(t_interval(np.array([1.0, 1.0, 1.0]))).all() and np.isnan(t_interval(np.array([0.3]))).all()
    found = compare_methods(frame({"sft": {8: [0, 0, 0]}, "memft-ot": {8: [1, 1, 1]}}))
    assert verdict(found, *MAIN).startswith("Without an interval: memft-ot +1 (rank 8;")
    assert "0 ahead and 0 behind" in overall_verdict(found)


def test_pairs_do_not_depend_on_the_order_of_the_rows():
    runs = frame(BOOK)
    one, other = (compare_methods(part) for part in (runs, runs.sample(frac=1, random_state=3)))
    for name in ("differences", "pooled", "means", "crossing"):
        keys = [key for key in ("measure", "rank", "method") if key in getattr(one, name)]
        left, right = (getattr(each, name).sort_values(keys).reset_index(drop=True) for each in (one, other))
        pd.testing.assert_frame_equal(left, right)


def test_a_missing_or_diverged_run_leaves_its_partner_alone():
    runs = frame(BOOK, stopped="budget")
    lost = (runs["method"] == "sft") & (runs["rank"] == 8) & (runs["seed"] == 1)
    for broken in (runs[~lost], runs.assign(stopped=np.where(lost, "diverged", "budget"))):
        found = compare_methods(broken)
        apart = row(found.differences, method="memft-sw", rank=8)
        assert apart["pairs"] == 2 and apart["mean"] == pytest.approx((0.32 + 0.36) / 2)
        assert {(run["method"], run["rank"], run["seed"]) for run in found.unpaired} == {
            ("memft-sw", 8, 1),
            ("memft-ot", 8, 1),
        }
        # A seed's mean over other ranks than the others' would compare ranks, not methods.
        pool = row(found.pooled, method="memft-sw")
        assert pool["ranks"] == (16,) and pool["incomplete"] == (8,) and pool["seeds"] == 3
        said = " ".join(notes(found))
        assert "1 run of memft-sw without a run of sft" in said and "Ranks that not every seed has" in said
    assert "1 run of sft diverged (rank 8)" in said
    assert row(found.leaders, rank=8)["pairs"] == 2


def test_runs_on_other_data_or_with_other_settings_are_no_pair():
    runs = frame(BOOK, init="paper")
    other = runs["method"] == "memft-ot"
    for column, value in (("dataset", "another"), ("init", "peft")):
        changed = runs.assign(**{column: runs[column].where(~other, value)})
        if column == "dataset":
            changed.loc[other, "dataset"] += changed.loc[other, "seed"].astype(str)
        found = compare_methods(changed)
        assert set(found.differences["method"]) == {"memft-sw"} and len(found.unpaired) == int(other.sum())


def test_unequal_compute_is_named_and_left_out():
    runs = frame(BOOK)
    dear = (runs["method"] == "memft-sw") & (runs["rank"] == 8)
    runs.loc[dear, "token_visits"] = 105_000
    runs.loc[runs["method"] == "memft-ot", "token_visits"] = 101_000
    found = compare_methods(runs)
    assert {(run["method"], run["rank"]) for run in found.unmatched} == {("memft-sw", 8)} and len(found.unmatched) == 3
    assert "Not compute-matched: 3 runs of memft-sw left out, up to 5 %" in describe_methods(found)
    assert set(found.differences.loc[found.differences["method"] == "memft-sw", "rank"]) == {2, 16, 32}
    assert row(found.differences, method="memft-ot", rank=8)["pairs"] == 3  # 1 % is within the tolerance
    loose = compare_methods(runs, tolerance=None)
    assert row(loose.differences, method="memft-sw", rank=8)["pairs"] == 3 and not loose.unmatched
    assert "token visits may differ" in " ".join(notes(loose))
    with pytest.raises(UserError, match="all 24 other runs"):
        compare_methods(runs.assign(token_visits=np.where(runs["method"] == "sft", 1, 2)))
    with pytest.raises(UserError, match="token_visits"):
        compare_methods(runs.drop(columns="token_visits"))


def test_the_verdict_follows_the_labels():
    found = compare_methods(frame(BOOK))
    said = verdict(found, *MAIN)
    assert said.startswith("In exact match over sft, averaged over the ranks in transition: memft-sw +0.2 [")
    assert "Within its interval: memft-ot +0.01" in said and "1 ahead and 0 behind" in overall_verdict(found)
    turned = compare_methods(frame(renamed(BOOK, sft="memft-sw", memft_sw="sft")))
    assert "memft-sw −0.2 [" in verdict(turned, *MAIN) and "0 ahead and 2 behind" in overall_verdict(turned)
    one, other = (row(each.pooled, method="memft-sw") for each in (found, turned))
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))
    assert "no method differs" not in said.lower()


def test_the_two_regimes_are_found_and_turned_round():
    values = {
        "sft": {2: [0, 0.02, 0], 4: [0.1, 0.1, 0.2], 8: [0.5, 0.6, 0.5]},
        "memft-sw": {2: [0.2, 0.26, 0.24], 4: [0.4, 0.42, 0.46], 8: [0.7, 0.7, 0.72]},
        "memft-ot": {2: [0, 0.04, 0.02], 4: [0.1, 0.12, 0.2], 8: [0.92, 0.96, 0.94]},
    }
    told = regimes(compare_methods(frame(values)), *MAIN)
    assert "rank 2 memft-sw* (" in told[0] and "rank 8 memft-ot* (" in told[0]
    assert told[1].endswith(
        "memft-sw is above memft-ot at ranks 2, 4, and memft-ot is above memft-sw at rank 8: "
        "the paper's two regimes (beyond the interval at 2, 4, 8)."
    )
    turned = renamed(values, memft_sw="memft-ot", memft_ot="memft-sw")
    assert "two regimes the other way round (" in regimes(compare_methods(frame(turned)), *MAIN)[1]
    values["memft-ot"][8] = [0.5, 0.6, 0.5]
    assert "two regimes do not appear" in regimes(compare_methods(frame(values)), *MAIN)[1]
    values["memft-ot"][8] = [0.70, 0.74, 0.71]
    assert "the paper's two regimes, in the means only" in regimes(compare_methods(frame(values)), *MAIN)[1]
    values["memft-ot"] = values["memft-sw"]
    told = regimes(compare_methods(frame(values)), *MAIN)
    assert "rank 2 memft-sw = memft-ot" in told[0] or "rank 2 memft-ot = memft-sw" in told[0]
    assert told[1].endswith("are alike at every rank.")


def test_equal_methods_are_said_not_to_differ():
    """In 95 % of cases by construction; 90 % or more of 100, with seeds that shift all ranks of a method together."""
    rng, cases, lead = np.random.default_rng(0), 100, 0.25
    level = np.array([0.2, 0.5, 0.8])[:, None]

    def drawn(level):
        noisy = level + 0.04 * rng.normal(size=(3, 3)) + 0.04 * rng.normal(size=(1, 3))
        return dict(zip((4, 8, 16), noisy.clip(0, 1).tolist(), strict=True))

    def said(lead, cases):
        values = [{"sft": drawn(level), "memft-sw": drawn(level + lead)} for _ in range(cases)]
        found = compare_methods(pd.concat([frame(each, length=case) for case, each in enumerate(values, 1)]))
        return [verdict(found, "phonebook", case) for case in range(1, cases + 1)]

    alike = "No method differs from sft beyond its interval in exact match: memft-sw"
    assert sum(text.startswith(alike) for text in said(0.0, cases)) >= 0.9 * cases
    # The words are no constant: a lead of 0.25, four times the noise of a seed's difference, is seen nearly always.
    assert sum(text.startswith("In exact match over sft") for text in said(lead, 20)) >= 16


def test_one_seed_has_differences_and_no_intervals():
    runs = frame(BOOK)
    found = compare_methods(runs[runs["seed"] == 0])
    assert verdict(found, *MAIN).startswith("With one seed there is no interval: memft-sw +0.21 (ranks 8, 16; 1 seed;")
    assert found.pooled["low"].isna().all()


def test_a_single_sample_is_judged_by_its_free_running_tokens():
    runs = frame(BOOK, "token_accuracy_free", samples=1, task="long_context", exact_match=0.0, token_accuracy=0.5)
    assert compare_methods(runs).main == {("long_context", 500): "token_accuracy_free"}
    assert compare_methods(runs.assign(samples=50)).main == {("long_context", 500): "exact_match"}


def test_bad_input_is_told():
    runs = frame(BOOK)
    twice = pd.concat([runs, runs[runs["method"] == "memft-sw"].assign(learning_rate=0.03)])
    with pytest.raises(UserError, match=r"memft-sw was run 2 times at rank 2.*learning_rate 0.01 and 0.03"):
        compare_methods(twice)
    with pytest.raises(UserError, match="'adam' needs it and another method"):
        compare_methods(runs, reference="adam")
    with pytest.raises(UserError, match="must say its seed"):
        compare_methods(runs.drop(columns="seed"))
    with pytest.raises(UserError, match="none of exact_match"):
        compare_methods(runs.drop(columns="exact_match"))


def test_the_best_rate_of_each_method():
    slow = frame({"sft": {8: [0.5]}, "memft-sw": {8: [0.3]}}, learning_rate=0.003)
    fast = frame({"sft": {8: [0.2]}, "memft-sw": {8: [0.6]}}, learning_rate=0.03)
    best = best_rates([slow, fast, frame({"longer": {8: [0.7]}})])
    found = {run["method"]: (run["mean"], run["learning_rate"], run["rates"]) for run in best.to_dict("records")}
    assert found["sft"] == (0.5, 0.003, (0.003, 0.03)) and found["memft-sw"] == (0.6, 0.03, (0.003, 0.03))
    (said,) = describe_rates(best, longer="longer")
    assert "Above sft with its best rate: memft-sw by +0.1." in said and "Above sft with more steps: none." in said


def test_everything_is_json_and_markdown():
    found = compare_methods(frame(BOOK))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["main"] == [{"task": "phonebook", "length": 500, "measure": "exact_match"}]
    assert told["pooled"][0]["ranks"] == [8, 16] and {row["low"] for row in told["means"] if row["rank"] == 32} == {
        None
    }
    table = methods_table(found)
    assert "| 8 | 0.233 | 0.580 | 0.240 | +0.35 [" in table and verdict(found, *MAIN) in table


def test_the_figure_has_a_line_for_each_method_in_each_panel(tmp_path):
    before = dict(mpl.rcParams)
    runs = frame(BOOK | {"another": BOOK["sft"]}, token_accuracy=0.5, p_min=1e-12)
    found = compare_methods(pd.concat([runs, runs.assign(length=64)]))
    made = draw_methods(found, "phonebook")
    assert [len(axes.containers) for axes in made.axes] == [4] * 6
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["sft", "memft-sw", "memft-ot", "another"]
    # The line of SW stands at its mean, whatever moves it within its rank.
    assert made.axes[0].containers[1].lines[0].get_ydata().tolist() == pytest.approx([0, 0.58, 1, 1])
    assert dict(mpl.rcParams) == before
    for path in save(draw_methods(compare_methods(frame(BOOK)), "phonebook"), tmp_path, "methods"):
        if path.suffix == ".png":
            assert min(struct.unpack(">II", path.read_bytes()[16:24])) > 300
