"""The microscope against truths counted by brute force, and against misses planted where arithmetic forbids them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from memlaw_jax.analysis import describe_microscope, microscope, read_tokens
from memlaw_jax.analysis.tokens.phase import wilson
from memlaw_jax.analysis.tokens.spearman import spearman
from memlaw_jax.analysis.tokens.stubborn import visible
from memlaw_jax.errors import UserError

from .simulate_tokens import run_arrays, simulated_sweep, write_folder


def brute(tokens, threshold):
    """First token below the threshold, first failure: one pair a sample, by walking through the table."""
    pairs = {}
    for row in tokens.table.to_dict("records"):
        below, failed = pairs.setdefault((row["run"], row["sample"]), [None, None])
        pairs[row["run"], row["sample"]] = [
            row["position"] if below is None and row["p"] <= threshold else below,
            row["position"] if failed is None and not row["right"] else failed,
        ]
    return pairs


@pytest.mark.parametrize("threshold", [0.5, 0.2])
@pytest.mark.parametrize("width", [10, None])
def test_positions_and_rho_are_those_of_a_walk_through_the_tokens(tmp_path, width, threshold):
    tokens = read_tokens(simulated_sweep(tmp_path / "a", width=width, seeds=2, strength=1.3))
    found = microscope(tokens, threshold)
    pairs = brute(tokens, threshold)
    assert [(row["run"], row["sample"]) for row in found.samples.to_dict("records")] == list(pairs)
    for name, index in (("first_below", 0), ("first_failure", 1)):
        assert [None if pd.isna(v) else v for v in found.samples[name]] == [pair[index] for pair in pairs.values()]
    both = [pair for pair in pairs.values() if None not in pair]
    whole = found.order[0]
    assert whole.both == whole.correlation.n == len(both) > 5
    assert whole.correlation.rho == pytest.approx(stats.spearmanr(both).statistic, abs=1e-12)
    assert whole.same == sum(below == failed for below, failed in both)
    assert whole.only_below == sum(failed is None and below is not None for below, failed in pairs.values())
    assert whole.only_failed == sum(below is None and failed is not None for below, failed in pairs.values())
    assert whole.before == sum(failed < below for below, failed in both)
    assert whole.both + whole.only_below + whole.only_failed + whole.neither == whole.samples == len(pairs)
    assert sum(order.samples for order in found.order[1:]) == whole.samples
    if threshold == 0.5:
        assert whole.only_failed == whole.before == 0  # softmax logits: the theorem


def test_rho_of_ties_is_scipys_and_its_interval_covers():
    """Clusters that share a common shift: the interval must widen with it, as the normal truth says it has to."""
    rng = np.random.default_rng(3)
    hits, trials = 0, 60
    for _ in range(trials):
        common = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 40)
        own = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], (40, 5)) * 0.5
        x, y = np.round(2 * (common[:, None] + own)).astype(int).reshape(-1, 2).T
        found = spearman(x, y, np.repeat(np.arange(40), 5), resamples=200)
        assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        truth = 6 / np.pi * np.arcsin(0.7 / 2)  # Spearman's ρ of a normal pair of correlation 0.7
        hits += found.low <= truth <= found.high
    # 95 % of 60 are 57; fewer than 49 has a probability below 1e-3. (Pairs drawn one by one would give about 40.)
    assert hits >= 49


def test_rho_is_none_where_a_side_does_not_vary_and_has_no_interval_with_few_clusters():
    one = np.ones(8, int)
    assert spearman(one, np.arange(8), np.arange(8)).rho is None
    assert spearman(one[:1], one[:1], one[:1]).rho is None
    few = spearman(np.arange(8), np.arange(8), np.repeat([0, 1], 4))
    assert few.rho == pytest.approx(1) and few.low is None


def test_a_planted_miss_above_half_is_counted_and_said(tmp_path):
    p = np.linspace(0.05, 0.95, 40)
    right = p > 0.5
    right[p > 0.5] &= np.abs(p[p > 0.5] - 0.72) > 0.012  # one token
    assert (~right & (p > 0.5)).sum() == 1
    runs = [(run_arrays(p, right), {}), (run_arrays(p), {"rank": 8, "precision": {"frozen": "bfloat16"}})]
    found = microscope(write_folder(tmp_path / "a", runs))
    single, half = found.checks
    assert (single.frozen, single.missed_above, half.frozen, half.missed_above) == ("float32", 1, "bfloat16", 0)
    assert single.highest_missed == single.enough == pytest.approx(0.72, abs=0.012)
    assert half.highest_missed <= 0.5
    words = describe_microscope(found)
    assert f"1 of {single.above} tokens above ½ are missed" in words and "arithmetic forbids" in words


def test_free_running_failures_are_those_with_everything_before_right(tmp_path):
    p = np.array([0.9, 0.8, 0.3, 0.7, 0.6, 0.9, 0.95, 0.2])
    right = p > 0.5
    # The first sample: as teacher forcing says. The second: fails at 0.6, above ½, and its later miss does not count.
    free = np.array([1, 1, 0, 0, 0, 1, 1, 0], bool)
    sample = [0, 0, 0, 0, 1, 1, 1, 1]
    bfloat16 = {"precision": {"frozen": "bfloat16", "adapter": "bfloat16"}}
    found = microscope(write_folder(tmp_path / "a", [(run_arrays(p, right, sample, free_right=free), bfloat16)]))
    (check,) = found.checks
    assert check.missed_above == 0 and check.samples_decoded == 2
    assert check.free_missed_above == 1 and check.free_above == 3  # 0.9 and 0.8, then 0.6
    assert check.free_highest_missed == check.enough == pytest.approx(0.6)
    assert check.free_elsewhere == 1
    words = describe_microscope(found)
    assert "1 of 3 tokens above ½ are missed after a right beginning" in words
    assert "p must be above 0.6000" in words
    assert found.runs["token_accuracy_free"].item() == 0.5 and found.runs["exact_match_free"].item() == 0


def test_theorem_holds_and_bins_add_up_in_a_softmax_sweep(tmp_path):
    tokens = read_tokens(simulated_sweep(tmp_path / "a", decode=True))
    found = microscope(tokens)
    (check,) = found.checks
    assert check.missed_above == check.free_missed_above == check.free_elsewhere == 0
    assert check.above == (tokens.table["p"] > 0.5).sum() > 0
    assert check.right_below == (tokens.table["right"] & (tokens.table["p"] <= 0.5)).sum() > 0
    table = found.recall_vs_p
    assert table["tokens"].sum() == len(tokens.table) and table["right"].sum() == tokens.table["right"].sum()
    above = table[table["low"] >= 0.5]
    assert (above["rate"] == 1).all() and (above["rate_low"] < 1).all()
    assert above["rate_high"].to_numpy() == pytest.approx(1, abs=1e-12)
    for row in table.to_dict("records"):
        mine = tokens.table[(tokens.table["p"] > row["low"]) & (tokens.table["p"] <= row["high"])]
        assert abs(len(mine) - row["tokens"]) <= (mine["p"].sub(row["high"]).abs() < 1e-12).sum()


def test_wilson_is_scipys():
    for successes, trials in ((0, 7), (3, 7), (7, 7), (120, 400)):
        known = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson(successes, trials) == pytest.approx((known.low, known.high), abs=1e-12)


def stubborn_folder(path, texts):
    """Two samples of four tokens. In runs that hold most, token (1, 2) is stuck in all three and derails in two."""
    good = np.array([0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.1, 0.8])
    right = np.array([1, 1, 1, 1, 1, 1, 0, 1], bool)
    early = right.copy()
    early[4] = False  # the sample fails before its stubborn token
    poor = np.full(8, 0.05)
    sample = [0, 0, 0, 0, 1, 1, 1, 1]
    more = {"labels": np.arange(8, dtype=np.int32), "pieces": np.array([*"abcdef", " |\n", "h"])} if texts else {}
    held = np.where(np.arange(8) == 4, 0.4, good)
    runs = [
        (run_arrays(good, right, sample, **more), {"rank": 8}),
        (run_arrays(good, right, sample, **more), {"rank": 16}),
        (run_arrays(held, early, sample, **more), {"rank": 16, "seed": 1}),
        (run_arrays(poor, poor > 1, sample, **more), {"rank": 1}),
    ]
    return write_folder(path, runs)


@pytest.mark.parametrize("texts", [True, False])
def test_stubborn_tokens_are_found_with_their_cost_in_runs_that_hold_most(tmp_path, texts):
    found = microscope(stubborn_folder(tmp_path / "a", texts))
    assert found.asked == 3
    (row,) = found.stubborn.to_dict("records")
    assert (row["sample"], row["position"], row["runs"], row["share_below"], row["share_wrong"]) == (1, 2, 3, 1, 1)
    assert row["derails"] == 2 and row["right_after"] == 1 and row["nats_initial"] == 8
    assert row["mean_p"] == pytest.approx(0.1)
    by_rank = {(row["rank"], row["sample"], row["position"]): row for row in found.stubborn_by_rank.to_dict("records")}
    assert set(by_rank) == {(8, 1, 2), (16, 1, 2)} and by_rank[16, 1, 2]["derails"] == 1
    written = {path.name: path.read_text() for path in found.save(tmp_path / "out")}
    assert set(written) == {"microscope.json", "stubborn.csv", "stubborn_by_rank.csv", "stubborn.md"}
    if texts:
        assert row["piece"] == " |\n" and row["label"] == 6
        assert "| 1 | 2 | `␣\\|↵` | 6 |" in written["stubborn.md"] and "“␣|↵”" in describe_microscope(found)
    else:
        assert row["piece"] is None and pd.isna(row["label"]) and "| 1 | 2 | `·` | · |" in written["stubborn.md"]
    assert len(pd.read_csv(tmp_path / "out" / "stubborn_by_rank.csv")) == 2


def test_text_is_made_visible():
    assert visible(" a\t\x1b\r\nü") == "␣a⇥\\x1b␍↵ü"


def test_low_loss_without_recall_is_listed_with_its_loss(tmp_path):
    p = np.full(20, 0.95)
    p[3] = 0.01
    runs = [
        (run_arrays(p), {"rank": 2}),
        (run_arrays(np.full(20, 0.95)), {"rank": 4}),
        (run_arrays(p / 9), {"rank": 1}),
    ]
    found = microscope(write_folder(tmp_path / "a", runs))
    assert list(found.decoupled["rank"]) == [2]
    loss = -np.log(p).mean()
    assert found.decoupled["loss_final"].item() == pytest.approx(loss, rel=1e-6)
    words = describe_microscope(found)
    assert f"rank 2, length 20, seed 0: loss {loss:.2f} nats, yet 0 of 1 recalled, 1 token at or below" in words
    # What greedy decoding wrote outranks what teacher forcing says of it.
    free = run_arrays(np.full(20, 0.95), free_right=np.arange(20) < 5)
    assert list(microscope(write_folder(tmp_path / "b", [(free, {})])).runs["decoupled"]) == [True]


def test_failures_are_counted_in_their_bins(tmp_path):
    for width, bins in ((10, 10), (None, 0)):
        tokens = read_tokens(simulated_sweep(tmp_path / str(width), width=width, strength=1.0, seeds=2))
        found = microscope(tokens)
        table = found.failures
        assert table["tokens"].sum() == len(tokens.table) and table["wrong"].sum() == (~tokens.table["right"]).sum()
        assert table["first_failures"].sum() == found.samples["first_failure"].notna().sum()
        assert bins in (0, table["low"].nunique())
        low, high = table["low"].to_numpy(), table["high"].to_numpy()
        rank = table["rank"].to_numpy()
        for i in range(len(table)):
            mine = found.samples[found.samples["rank"] == rank[i]]["first_failure"].dropna()
            assert ((mine >= low[i]) & (mine < high[i])).sum() == table["first_failures"].iloc[i]


def test_older_folders_say_what_they_lack(tmp_path):
    found = microscope(simulated_sweep(tmp_path / "a", texts=False))
    assert "No run was decoded free-running" in describe_microscope(found)
    assert found.runs["token_accuracy_free"].isna().all() and not found.checks[0].samples_decoded


def test_json_is_strict_and_counts_every_sample(tmp_path):
    folder = simulated_sweep(tmp_path / "a", methods=("sft", "memft-ot"))
    found = microscope(folder)
    content = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert sum(row["samples"] for row in content["samples"]) == len(found.samples)
    assert content["order"][0]["correlation"]["rho"] == found.order[0].correlation.rho
    assert len(content["runs"]) == len(found.runs) == 16 and content["half"][0]["missed_above"] == 0
    assert microscope(folder).to_json() == found.to_json()


def test_diverged_runs_are_counted_in_words(tmp_path):
    broken = run_arrays([0.5, 0.6])
    broken["nats"][:] = np.nan
    runs = [(run_arrays([0.9, 0.4]), {}), (broken, {"rank": 9, "loss_final": None, "stopped": "diverged"})]
    found = microscope(write_folder(tmp_path / "a", runs))
    assert "1 diverged run left out" in describe_microscope(found)
    assert [run["rank"] for run in json.loads(found.to_json())["diverged"]] == [9]


@pytest.mark.parametrize("threshold", [0, 1, -0.5, float("nan")])
def test_a_threshold_is_a_probability(tmp_path, threshold):
    with pytest.raises(UserError, match="threshold is"):
        microscope(simulated_sweep(tmp_path / "a"), threshold)


def test_the_microscope_needs_no_jax(tmp_path):
    folder = simulated_sweep(tmp_path / "a", ranks=(1, 4), lengths=(40,))
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "from memlaw_jax.analysis import microscope, describe_microscope\n"
        f"print(describe_microscope(microscope({str(folder)!r})))\n"
        "assert 'matplotlib' not in sys.modules and 'flax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "tokens above ½ are missed" in done.stdout, done.stderr
