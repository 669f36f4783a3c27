"""Capacity: bits by hand, what the source's entropy allows, the longest length recalled, and words and pictures."""

from __future__ import annotations

import csv
import json
import math
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from etils import epath
from scipy import stats

from memlaw_jax.analysis.capacity.capacity import ALLEN_ZHU, MORRIS, measure_capacity
from memlaw_jax.analysis.capacity.recall import bracket
from memlaw_jax.analysis.capacity.words import capacity_table, describe_capacity
from memlaw_jax.analysis.figures.capacity import draw_capacity
from memlaw_jax.analysis.figures.style import save
from memlaw_jax.analysis.law.fit import fit_law
from memlaw_jax.errors import UserError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
LN2 = math.log(2)
V = 2048  # 11 bits a token


def book(cells, **columns):
    """Runs from {(rank, length): [(loss_final, exact_match) of seeds 0, 1, …]}; 512 parameters a rank."""
    rows = [
        {"rank": rank, "length": length, "seed": seed, "loss_final": final, "exact_match": match}
        for (rank, length), runs in cells.items()
        for seed, (final, match) in enumerate(runs)
    ]
    frame = pd.DataFrame(rows)
    usual = {"task": "long_context", "ratio": 1.0, "vocab_size": V, "loss_initial": 12.0, "method": "sft"}
    usual |= {"effective_parameters": 512 * frame["rank"], "token_visits": 400 * frame["length"]}
    usual |= {"samples": 1, "precision": [{"frozen": "bfloat16", "adapter": "float32"}] * len(frame)}
    return frame.assign(**(usual | columns))


def row(table, **key):
    found = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


GRID = {
    (1, 32): [(5.0, 0), (5.2, 0), (4.9, 0)],
    (1, 64): [(5.8, 0), (5.9, 0), (6.0, 0)],
    (4, 32): [(0.10, 1), (0.20, 1), (0.12, 1)],
    (4, 64): [(1.9, 1), (2.0, 0), (2.3, 0)],
    (4, 128): [(5.2, 0), (5.3, 0), (5.1, 0)],
}


def test_bits_by_hand():
    found = measure_capacity(book(GRID))
    assert found.measure == "stored" and found.method == "sft" and found.tasks == ("long_context",)
    for (rank, length), runs in GRID.items():
        cell = row(found.cells, rank=rank, length=length)
        final = sum(loss for loss, _ in runs) / 3
        assert cell["runs"] == 3 and cell["exposures"] == 400
        assert cell["gain_bits"] == pytest.approx((12 - final) * length / LN2)
        assert cell["code_bits"] == pytest.approx(final * length / LN2)
        assert cell["source_bits"] == 11 * length
        stored = max(0, 11 * length - final * length / LN2)
        assert cell["stored_bits"] == cell["bits"] == pytest.approx(stored)
        assert cell["bits_per_parameter"] == pytest.approx(stored / (512 * rank))
        assert cell["bits_per_byte"] == pytest.approx(stored / (512 * rank) / 4)
        assert cell["tokens_per_parameter"] == pytest.approx(length / (512 * rank))
        assert cell["recalled"] is (min(match for _, match in runs) == 1) and cell["follows_rule"] is True
    assert "predicted_gain_bits" not in found.cells and found.growth is None


def test_a_rank_holds_what_its_fullest_length_does_with_students_interval():
    found = measure_capacity(book(GRID))
    four = row(found.ranks, rank=4)
    bits = {n: [11 * n - x * n / LN2 for x, _ in GRID[4, n]] for n in (32, 64, 128)}
    best = max(bits, key=lambda n: np.mean(bits[n]))
    assert best == 64 == four["at_length"] and not four["at_longest"]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(bits[best]), scale=stats.sem(bits[best]))
    assert (four["capacity_bits"], four["capacity_low"]) == pytest.approx((np.mean(bits[best]), low))
    assert four["capacity_high"] == pytest.approx(min(high, 11 * 64))  # the source holds no more
    assert four["last_step"] == pytest.approx(math.log(np.mean(bits[128]) / np.mean(bits[64])) / LN2)
    assert not four["lower_bound"] and not four["all_recalled"]
    one = row(found.ranks, rank=1)
    assert one["at_longest"] and one["lower_bound"] and found.overall.lower_bounds == 1
    everything = measure_capacity(book({(8, 32): [(0.1, 1)], (8, 16): [(0.01, 1)]}))
    assert everything.ranks["all_recalled"].iloc[0] and everything.ranks["lower_bound"].iloc[0]
    assert math.isnan(everything.ranks["capacity_low"].iloc[0]) and "intervals" in everything.missing


def test_the_phone_book_holds_its_numbers_and_no_names():
    frame = book({(4, 30): [(1.0, 0)]}, task="phonebook", samples=3)
    entropy = math.log2(4e9) + math.log2(4e9 - 1) + math.log2(4e9 - 2)
    cell = measure_capacity(frame).cells.iloc[0]
    assert cell["source_bits"] == pytest.approx(entropy, rel=1e-14)
    assert cell["stored_bits"] == pytest.approx(entropy - 30 / LN2)
    uniform = frame.assign(loss_final=3 * math.log(4e9) / 30)  # knows the format and not one number
    assert measure_capacity(uniform).cells["stored_bits"].iloc[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("s", range(10))
def test_bits_stored_stay_between_nothing_and_the_source(s):
    rng = np.random.default_rng([s, 2026])
    cells = {
        (rank, length): [(rng.uniform(0, 14) * rng.integers(0, 2), rng.integers(0, 2)) for _ in range(3)]
        for rank, length in product((1, 2, 4), (16, 32, 64))
    }
    found = measure_capacity(book(cells), bootstrap=50)
    assert (found.cells["stored_bits"] >= 0).all()
    assert (found.cells["stored_bits"] <= found.cells["source_bits"]).all()
    most = found.ranks["at_length"] * 11
    for name in ("capacity_low", "capacity_bits", "capacity_high"):
        told = found.ranks[name].notna()
        assert found.ranks[name][told].between(0, most[told]).all()
    assert (found.ranks["capacity_bits"] == found.cells.groupby("rank")["bits"].max().to_numpy()).all()


def test_doubling_the_length_at_equal_losses_doubles_the_bits():
    short, long = (measure_capacity(book({(2, n): [(1.5, 0)]})).cells.iloc[0] for n in (50, 100))
    for name in ("gain_bits", "source_bits", "code_bits", "stored_bits"):
        assert long[name] == pytest.approx(2 * short[name])
    # One bit is ln 2 nats: a loss one doubling lower saves a bit a token.
    worse, better = (measure_capacity(book({(2, 50): [(loss, 0)]})).cells.iloc[0] for loss in (1.5, 1.5 - LN2))
    assert better["stored_bits"] - worse["stored_bits"] == pytest.approx(50)
    half = measure_capacity(book({(2, 50): [(1.5, 0)]}, precision="bfloat16"))
    assert half.overall.byte_width == 2
    assert half.cells["bits_per_byte"].iloc[0] == pytest.approx(2 * short["bits_per_byte"])


def test_heldout_items_are_compared_by_token_or_item_by_item():
    score = {"samples": 10, "loss": 2.0, "token_accuracy": 0.3, "exact_match": 0.0}
    frame = book({(2, 60): [(0.5, 0)]}, task="linear_rule", samples=20, heldout=[score])
    found = measure_capacity(frame)
    assert found.measure == "heldout" and "source_bits" in found.missing
    assert found.cells["bits"].iloc[0] == pytest.approx(1.5 * 60 / LN2)
    longer = measure_capacity(frame.assign(heldout=[score | {"length": 40}]))  # 4 tokens an item, not 3
    assert longer.cells["bits"].iloc[0] == pytest.approx((2.0 * 4 - 0.5 * 3) * 20 / LN2)
    flat = measure_capacity(frame.drop(columns="heldout").assign(heldout_loss=2.0))
    assert flat.cells["bits"].iloc[0] == found.cells["bits"].iloc[0]
    both = measure_capacity(book({(2, 60): [(0.5, 0)]}, heldout_loss=9.0))
    assert both.measure == "stored" and both.cells["heldout_bits"].iloc[0] == pytest.approx(8.5 * 60 / LN2)


def test_what_the_record_says_of_its_source_goes_before_what_its_task_lets_guess():
    told = measure_capacity(book(GRID, source_bits=300.0))
    assert (told.cells["source_bits"] == 300).all()
    text = measure_capacity(book(GRID, ratio=0.6))
    assert text.measure == "gain" and "source" in text.missing["source_bits"]
    silent = book(GRID).drop(columns="ratio")
    assumed = measure_capacity(silent)
    assert assumed.measure == "stored" and any("ratio" in note for note in assumed.notes)
    assert measure_capacity(silent, ratio=1.0).notes == () and measure_capacity(silent, ratio=0.2).measure == "gain"
    # A base that beats ln V reads text.
    assert measure_capacity(silent.assign(loss_initial=7.0)).measure == "gain"
    book_of_a_file = book(GRID, task="phonebook", samples=3)
    assert measure_capacity(book_of_a_file).measure == "stored"
    assert measure_capacity(book_of_a_file.assign(source_bits=None)).measure == "gain"
    partly = measure_capacity(silent.assign(source_bits=np.where(silent["rank"] == 1, 500.0, np.nan)))
    assert partly.measure == "stored" and any("3 of 5 cells" in note for note in partly.notes)


def test_a_cell_whose_runs_tell_different_things_takes_each_run_by_its_own():
    frame = book({(2, 50): [(1.0, 0), (3.0, 0)]}, source_bits=[400.0, None], heldout=[None, {"loss": 4.0}])
    cell = measure_capacity(frame).cells.iloc[0]
    assert cell["stored_bits"] == pytest.approx(400 - 50 / LN2) and cell["source_bits"] == 400
    assert cell["heldout_bits"] == pytest.approx(50 / LN2)


def test_a_plain_table_gives_the_information_gain_and_says_what_it_lacks(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("rank,length,loss_initial,loss_final\n1,100,3,1\n1,200,3,2\n2,100,3,0.5\n")
    found = measure_capacity(path)
    assert found.measure == "gain" and found.method is None
    assert found.cells["bits"].tolist() == pytest.approx([200 / LN2, 200 / LN2, 250 / LN2])
    lacks = {
        "effective_parameters",
        "exposures",
        "exact_match",
        "heldout_bits",
        "source_bits",
        "byte_width",
        "intervals",
    }
    assert set(found.missing) == lacks
    assert found.rule is None and found.overall.bits_per_parameter is None
    assert found.ranks["recalled_length"].isna().all() and found.ranks["bits_per_parameter"].isna().all()
    words = describe_capacity(found)
    assert "upper view" in words and "effective_parameters" in words and "nan" not in words
    assert "nan" not in capacity_table(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("recalled", "low", "high"),
    [
        ("1100", 20, 40),
        ("0000", 0, 10),
        ("1111", 80, math.inf),
        ("1010", 10, 80),
        ("0001", 0, math.inf),
        ("0110", 0, 80),
    ],
)
def test_the_bracket_of_recall(recalled, low, high):
    assert bracket(np.array([10, 20, 40, 80]), np.array([mark == "1" for mark in recalled])) == (low, high)


def test_the_longest_length_recalled_and_its_interval():
    found = measure_capacity(book(GRID), bootstrap=2000)
    four = row(found.ranks, rank=4)
    assert four["recalled_length"] == 32 and (four["bracket_low"], four["bracket_high"]) == (32, 64)
    # Drawing seed 0 alone, once in 27, recalls 64 tokens: the interval reaches to 128, the next length tried.
    assert (four["recalled_low"], four["recalled_high"]) == (32, 128) and four["monotone"]
    assert four["tokens_per_parameter"] == 32 / 2048
    one = row(found.ranks, rank=1)
    assert (one["recalled_length"], one["recalled_low"], one["recalled_high"]) == (0, 0, 32)
    assert one["tokens_per_parameter"] == 0
    assert (found.overall.densest_rank, found.overall.densest_length) == (4, 32)
    single = measure_capacity(book({key: runs[:1] for key, runs in GRID.items()}))
    assert tuple(row(single.ranks, rank=4)[["recalled_low", "recalled_high"]]) == (64, 128)
    lenient = measure_capacity(book(GRID), threshold=0.3)
    assert row(lenient.ranks, rank=4)["recalled_length"] == 64
    nameless = measure_capacity(book(GRID).drop(columns="seed"), bootstrap=2000)
    assert tuple(row(nameless.ranks, rank=4)[["recalled_low", "recalled_high"]]) == (32, 128)


def test_the_resampled_seeds_are_every_draw_there_is():
    """With two seeds there are four draws: the ends are those of full enumeration."""
    cells = {(4, 10): [(0.1, 1), (0.1, 1)], (4, 20): [(0.1, 1), (0.5, 0)], (4, 40): [(0.9, 0), (0.1, 1)]}
    lengths = np.array([10, 20, 40])
    match = np.array([[m for _, m in runs] for runs in cells.values()])
    ends = [bracket(lengths, match[:, list(drawn)].mean(axis=1) >= 1) for drawn in product((0, 1), repeat=2)]
    four = measure_capacity(book(cells), bootstrap=2000).ranks.iloc[0]
    assert four["recalled_low"] == min(low for low, _ in ends) == 10
    assert four["recalled_high"] == max(high for _, high in ends) == math.inf


def test_recall_that_comes_and_goes():
    odd = {(2, 10): [(0.1, 1)], (2, 20): [(0.5, 0)], (2, 40): [(0.2, 1)], (2, 80): [(3.0, 0)]}
    found = measure_capacity(book(odd))
    rank = found.ranks.iloc[0]
    assert rank["recalled_length"] == 40 and not rank["monotone"]
    assert (rank["bracket_low"], rank["bracket_high"]) == (10, 80)
    assert "though a shorter one was not" in describe_capacity(found)


def test_the_rule_of_thumb_is_counted_in_four_fields():
    frame = book({(1, n): [(0.1, match)] for n, match in ((100, 1), (512, 0), (513, 1), (600, 0), (700, 0))})
    rule = measure_capacity(frame).rule
    counts = (rule.follows_recalled, rule.follows_failed, rule.breaks_recalled, rule.breaks_failed)
    assert counts == (1, 1, 1, 2)
    assert "1 of the 2 cells within it, 1 of the 3 beyond it" in describe_capacity(measure_capacity(frame))


def test_the_law_tells_its_gain_and_picks_its_method():
    frame = pd.read_json(RESULTS / "demo" / "results.jsonl", lines=True)
    law = fit_law(frame, bootstrap=0)
    two = pd.concat([frame, frame.assign(method="other", cell_id=[f"x{i}" for i in range(len(frame))])])
    found = measure_capacity(two, law)
    assert found.method == "sft" and found.growth == 1 - law.beta and len(found.cells) == len(frame)
    cell = found.cells.iloc[7]
    assert cell["predicted_gain_bits"] == pytest.approx(
        law.predict(cell["rank"], cell["length"]) * cell["length"] / LN2
    )
    assert "no finite capacity" in " ".join(describe_capacity(found).split())


def test_a_users_mistakes_are_told():
    frame = book(GRID)
    both = pd.concat([frame, frame.assign(method="memft-ot")])
    for wrong, words in (
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": 1.2}, "1.2"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"ratio": 2}, "ratio is 2"),
        ({"method": "x"}, "no method 'x'"),
    ):
        with pytest.raises(UserError, match=words):
            measure_capacity(frame, **wrong)
    with pytest.raises(UserError, match="2 methods"):
        measure_capacity(both)
    assert measure_capacity(both, method="memft-ot").method == "memft-ot"


def test_neither_the_order_of_the_rows_nor_another_method_changes_anything():
    frame = book(GRID)
    shuffled = frame.sample(frac=1, random_state=1)
    one, other = (measure_capacity(x).to_dict() for x in (frame, shuffled))
    assert one == other
    two = pd.concat([frame.assign(method="b"), frame.assign(loss_final=1.0)])
    assert measure_capacity(two, method="b").to_dict()["ranks"] == one["ranks"]


@pytest.mark.parametrize(
    ("name", "method", "measure"),
    [
        ("demo/results.jsonl", "sft", "stored"),
        ("phonebook/results.jsonl", "sft", "stored"),
        ("memft_long_context/seed0/results.jsonl", "memft-ot", "stored"),
        ("memft_phonebook/seed0/results.jsonl", "sft", "stored"),
        ("linear_rule/bypass/seed0/results.jsonl", "sft", "heldout"),
        ("phase_transition/float32/random/results.jsonl", "sft", "stored"),
    ],
)
def test_our_own_results(name, method, measure, tmp_path):
    found = measure_capacity(RESULTS / name, method=method, bootstrap=100)
    assert found.measure == measure and found.overall.byte_width == 4
    assert 0.05 < found.overall.most < ALLEN_ZHU < MORRIS
    words = describe_capacity(found)
    assert "nan" not in words and "inf" not in words.replace("information", "")
    assert "nan" not in capacity_table(found)
    written = {path.name: path for path in found.save(tmp_path)}
    assert set(written) == {"capacity.csv", "capacity.json", "capacity.md"}
    with open(written["capacity.csv"], newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found.cells)
    content = json.loads(written["capacity.json"].read_text())
    assert content["ranks"][0]["rank"] == found.ranks["rank"].iloc[0] and content["measure"] == measure


def test_the_demo_holds_about_as_many_bits_a_parameter_at_every_rank():
    """Seven ranks from 1 to 12 stay within a quarter of each other: the figure the report will quote."""
    found = measure_capacity(RESULTS / "demo" / "results.jsonl")
    per = found.ranks["bits_per_parameter"]
    assert per.between(0.36, 0.45).all() and found.overall.bits_per_parameter == pytest.approx(0.416, abs=5e-4)
    assert found.overall.low <= found.overall.bits_per_parameter <= found.overall.high


@pytest.mark.parametrize("case", ["several", "plain", "nothing"])
def test_the_figure(case, tmp_path):
    frame = {
        "several": book(GRID),
        "plain": book(GRID)[["rank", "length", "loss_initial", "loss_final"]],
        "nothing": book({(rank, 64): [(9.0, 0), (9.5, 0)] for rank in (1, 2, 4)}),
    }[case]
    made = draw_capacity(measure_capacity(frame, bootstrap=50))
    assert len([axes for axes in made.axes if axes.get_title(loc="left")]) == (1 if case == "plain" else 2)
    png = save(made, epath.Path(tmp_path), "capacity")[0].read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", png[16:20])[0] > 900
