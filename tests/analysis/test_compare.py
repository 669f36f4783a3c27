"""Two result sets side by side: the numbers by hand, known differences, what is matched and what is said."""

from __future__ import annotations

import json
import struct

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memlaw_jax.analysis import compare, compare_and_draw, fit_law
from memlaw_jax.analysis.cells import gather
from memlaw_jax.analysis.comparison.compare import summary
from memlaw_jax.analysis.comparison.compare_words import describe_comparison, table, verdict
from memlaw_jax.analysis.comparison.contrast import contrast
from memlaw_jax.analysis.comparison.spread import difference_interval
from memlaw_jax.errors import UserError

from .simulate import BASE, fit_cells, simulate

SMALL = BASE.but(ranks=(1, 2, 4, 8), lengths=(4000, 8000, 16000, 32000))


def frame(losses, **columns):
    """Runs of {(rank, length): final losses}, seeds 0, 1, …, initial loss 8 + rank."""
    rows = [
        {"rank": rank, "length": length, "seed": seed, "loss_initial": 8.0 + rank, "loss_final": loss}
        for (rank, length), runs in losses.items()
        for seed, loss in enumerate(runs)
    ]
    return pd.DataFrame(rows).assign(**columns)


def cell(found, rank, length):
    return found.cells.set_index(["rank", "length"]).loc[(rank, length)]


A = {(1, 64): [5.0, 5.2, 5.1], (2, 64): [3.0, 3.4, 3.1], (4, 32): [1.0]}
B = {(1, 64): [4.9, 5.3, 5.0], (2, 64): [3.3, 3.2, 3.6], (8, 32): [0.5]}


def test_the_numbers_of_a_cell_by_hand():
    found = compare(
        frame(A, exact_match=0.25, token_accuracy=0.5),
        frame(B, exact_match=0.75, note="x").assign(seed=[7, 8, 9] * 2 + [7]),
    )
    assert found.cells[["rank", "length"]].to_numpy().tolist() == [[1, 64], [2, 64]]
    for key in [(1, 64), (2, 64)]:
        row, (a, b) = cell(found, *key), (np.array(A[key]), np.array(B[key]))
        assert row["final_difference"] == pytest.approx(b.mean() - a.mean())
        assert row["delta_difference"] == pytest.approx(a.mean() - b.mean()) and row["initial_difference"] == 0
        assert row["final_relative"] == pytest.approx(b.mean() / a.mean() - 1)
        assert (row["final_least_a"], row["final_greatest_b"]) == (a.min(), b.max())
        assert row["exact_match_difference"] == 0.5 and (row["runs_a"], row["runs_b"]) == (3, 3)
        # Two cells are too few to share a variance: this is Welch's interval.
        ends = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        assert not row["paired"] and (row["final_low"], row["final_high"]) == pytest.approx(tuple(ends))
        assert (row["delta_low"], row["delta_high"]) == pytest.approx((-ends[1], -ends[0]))
    assert "token_accuracy" not in found.overall and "token_accuracy_a" not in found.cells
    apart = [np.mean(B[key]) - np.mean(A[key]) for key in [(1, 64), (2, 64)]]
    final = found.overall["final"]
    assert final.mean == pytest.approx(np.mean(apart)) and final.rms == pytest.approx(
        np.sqrt(np.mean(np.square(apart)))
    )
    assert final.largest == pytest.approx(apart[1]) and final.largest_at == (None, 2, 64)
    assert (final.low, final.high, final.lower, final.higher) == (None, None, 1, 1)


def test_the_same_seeds_on_both_sides_are_paired():
    found = compare(frame(A), frame(B).sample(frac=1, random_state=0))
    for key in [(1, 64), (2, 64)]:
        ends = stats.ttest_rel(B[key], A[key]).confidence_interval(0.95)
        row = cell(found, *key)
        assert row["paired"] and (row["final_low"], row["final_high"]) == pytest.approx(tuple(ends))
    assert "paired by seed" in describe_comparison(found)


def test_a_side_with_one_run_is_taken_to_spread_like_the_other():
    a, b = np.array([5.0, 5.2, 5.1]), np.array([4.9])
    low, high = difference_interval([a], [b], np.array([False]))
    half = stats.t.ppf(0.975, 2) * a.std(ddof=1) * np.sqrt(1 / 3 + 1)
    assert (low[0], high[0]) == pytest.approx((b.mean() - a.mean() - half, b.mean() - a.mean() + half))
    assert np.isnan(difference_interval([a[:1]], [b], np.array([False]))).all()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("grow", [1.0, 100.0])  # the spread of the hardest cell over that of the easiest
@pytest.mark.parametrize("runs", [(2, 2), (3, 3), (5, 2)])
def test_intervals_of_cells_cover(paired, grow, runs):
    """95 % nominal on 150 grids of 20 cells; 3000 intervals, whose count has a standard error of 0.4 % or a little more
    (cells of a grid share a variance). Moderation costs up to 2 % where spreads are unlike a scaled χ²."""
    if paired and runs[0] != runs[1]:
        return
    rng = np.random.default_rng([3, 2026])
    sd = np.geomspace(0.01, 0.01 * grow, 20)[:, None]
    hits = 0
    for _ in range(150):
        shared = sd * rng.standard_normal((20, 5)) * paired
        a = sd * rng.standard_normal((20, runs[0])) + shared[:, : runs[0]]
        b = sd * rng.standard_normal((20, runs[1])) + shared[:, : runs[1]] + 0.3
        low, high = difference_interval(list(a), list(b), np.full(20, paired))
        hits += int(((low <= 0.3) & (high >= 0.3)).sum())
    assert 0.92 < hits / 3000 < 0.98


def test_a_known_difference_is_recovered():
    a, b = simulate(SMALL, 0), simulate(SMALL, 1)
    final = compare(a, b.assign(loss_final=b["loss_final"] - 0.1), bootstrap=0).overall["final"]
    assert final.low < -0.1 < final.high < 0 and final.cells == 16
    text = verdict(compare(a, b.assign(loss_final=b["loss_final"] - 0.1), bootstrap=0))
    assert text.startswith(f"B ends {-final.mean:.3g} nats per answer token lower on average [−0.1")
    assert "over 16 matched cells" in text and "B is lower in 16 and higher in 0" in text
    same = compare(a, b, bootstrap=0)
    within = max(-same.overall["final"].low, same.overall["final"].high)
    assert verdict(same).startswith("A and B cannot be told apart") and f"at most {within:.3g} nats" in verdict(same)


def test_the_interval_of_the_mean_covers():
    """Cells move apart by N(0.05, 0.04²) each; 200 comparisons of 16 cells, of which about 184 should be right
    (the percentile bootstrap of 16 values covers some 92 %; three standard errors are 12)."""
    cells = pd.DataFrame({"method_b": None, "rank": range(1, 17), "length": 64})
    rng = np.random.default_rng([4, 2026])
    hits = 0
    for seed in range(200):
        cells["final_difference"] = 0.05 + 0.04 * rng.standard_normal(16)
        final = summary(cells, "final", seed)
        hits += final.low <= 0.05 <= final.high
    assert 172 <= hits <= 196


def test_laws_of_both_and_how_they_differ():
    # Other noise on another truth: α 0.1 higher.
    steep = SMALL.but(alpha=0.7, C=17.0)
    found = compare(simulate(SMALL, 0), simulate(steep, 1))
    (pair,) = found.laws
    assert pair.over == "matched cells" and not pair.why
    for side, design, s in (("a", SMALL, 0), ("b", steep, 1)):
        law = getattr(pair, side)
        alone = fit_law(simulate(design, s))
        assert (law.alpha, law.draws) == (alone.alpha, alone.draws)
    alpha = pair.differences["alpha"]
    assert alpha.difference == pair.b.alpha - pair.a.alpha and alpha.low < 0.1 < alpha.high
    text = describe_comparison(found)
    assert f"α: A {pair.a.alpha:.3f}" in text and "B − A = +" in text
    # c_ref is ΔL − b at one place for both laws, although each uses cells of its own.
    pairs = [(x, y) for x, y in zip(pair.a.cells, pair.b.cells, strict=True) if x.used or y.used]
    rank, length = (np.exp(np.mean([np.log(getattr(x, name)) for x, _ in pairs])) for name in ("rank", "length"))
    c_ref = pair.differences["c_ref"]
    assert c_ref.a == pytest.approx(pair.a.predict(rank, length) - pair.a.b)
    assert c_ref.b == pytest.approx(pair.b.predict(rank, length) - pair.b.b)


def test_differences_of_laws_refit_both_to_the_same_cells():
    """Against the long way: every resample fitted from scratch, with the global search, on each side."""
    frames = [simulate(BASE, 0), simulate(BASE.but(C=24.0), 1)]
    laws = [fit_law(one, bootstrap=0) for one in frames]
    found = contrast(*laws, replicates=30, seed=5)
    used = [np.array([cell.used for cell in law.cells]) for law in laws]
    some = used[0] | used[1]
    assert (used[0] != used[1]).any()  # or the test would be too kind
    cells = [gather(one) for one in frames]
    times = np.random.default_rng(5).multinomial(some.sum(), np.full(some.sum(), 1 / some.sum()), size=30)
    apart = []
    for row in times:
        whole = np.zeros(len(some), int)
        whole[some] = row
        fits = []
        for side, keep in zip(cells, used, strict=True):
            drawn = side.take(keep & (whole > 0))
            object.__setattr__(drawn, "runs", drawn.runs * whole[keep & (whole > 0)])
            fits.append(fit_cells(drawn))
        apart.append((fits[1].alpha - fits[0].alpha, fits[1].offset - fits[0].offset))
    for name, column in zip(("alpha", "b"), np.array(apart).T, strict=True):
        ends = np.percentile(column, [2.5, 97.5])
        assert (found[name].low, found[name].high) == pytest.approx(tuple(ends), abs=1e-6)


def test_what_has_no_partner_is_listed_and_its_law_told_apart():
    a = simulate(SMALL, 0).assign(stopped="budget")
    b = simulate(SMALL, 1).assign(stopped="budget")
    b.loc[(b["rank"] == 8) & (b["length"] == 4000), "stopped"] = "diverged"
    b.loc[b["length"] == 32000, "length"] = 31990  # near is not the same
    found = compare(a, b)
    assert [(one["rank"], one["length"], one["reason"]) for one in found.only_a] == [
        (1, 32000, "not in B"),
        (2, 32000, "not in B"),
        (4, 32000, "not in B"),
        (8, 4000, "diverged in B"),
        (8, 32000, "not in B"),
    ]
    assert [one["length"] for one in found.only_b] == [31990] * 4 and all(one["runs"] == 3 for one in found.only_b)
    assert len(found.cells) == 11
    assert [pair.over for pair in found.laws] == ["matched cells", "all cells"]
    assert len(found.laws[1].a.cells) == 16 and len(found.laws[0].a.cells) == 11
    text, page = describe_comparison(found), table(found)
    assert "Only A has 5 cells without a partner: rank 1, length 32000 (not in B)" in text
    assert page.count("| not in B |") == 4 and page.count("| diverged in B |") == 1 and "31990" in page


def test_a_law_that_cannot_be_fitted_is_told():
    found = compare(frame(A), frame(B))
    pair = found.laws[0]
    assert pair.a is None and pair.differences is None
    assert "only 2 unsaturated cells" in pair.why["a"]
    assert "No law of A: only 2 unsaturated cells" in describe_comparison(found)


def methods(*names, s=0):
    return pd.concat([simulate(SMALL, s + i).assign(method=name) for i, name in enumerate(names)], ignore_index=True)


def test_cells_meet_per_method_and_across_single_ones():
    both = compare(methods("sft", "memft-ot"), methods("memft-ot", "sft", "memft-sw", s=5))
    assert len(both.cells) == 32 and (both.cells["method_a"] == both.cells["method_b"]).all()
    assert {one["method"] for one in both.only_b} == {"memft-sw"} and len(both.only_b) == 16
    assert [pair.method_a for pair in both.laws if pair.over == "matched cells"] == ["memft-ot", "sft"]
    assert both.overall["final"].largest_at[0] in ("sft", "memft-ot")

    across = compare(methods("sft"), methods("memft-ot", s=5), bootstrap=0)
    assert len(across.cells) == 16 and set(across.cells["method_b"]) == {"memft-ot"}
    assert "Cells of different methods are matched: A is sft, B is memft-ot." in across.notes

    picked = compare(methods("sft", "memft-ot"), methods("sft", "memft-ot", s=5), method="sft", bootstrap=0)
    assert set(picked.cells["method_a"]) == set(picked.cells["method_b"]) == {"sft"} and not picked.only_b
    own = methods("sft", "memft-ot")
    crossed = compare(own, own, method="sft", method_b="memft-ot", bootstrap=0)
    assert len(crossed.cells) == 16 and crossed.overall["final"].rms > 0
    nameless = compare(own, simulate(SMALL, 3), method="sft", bootstrap=0)
    assert set(nameless.cells["method_a"]) == {"sft"} and nameless.cells["method_b"].isna().all()
    assert "A is sft, B is of no name." in nameless.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nope"}, r"A holds no method 'nope' \(--method\); it holds memft-ot, sft"),
        ({"method": "sft", "method_b": "nope"}, r"B holds no method 'nope' \(--method-b\); its results name no method"),
        ({}, r"A holds 2 methods \(memft-ot, sft\) and B names none; pick one of A with --method"),
        ({"method": "sft", "filter": "magic"}, "'magic'.*predicted, paper"),
        ({"method": "sft", "bootstrap": -1}, "bootstrap is -1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        compare(methods("sft", "memft-ot"), simulate(SMALL, 1), **options)


def test_no_cell_in_common_lists_what_each_has():
    with pytest.raises(UserError, match=r"A has ranks 1, 2, 4 and lengths 32, 64; B has ranks 1 and lengths 100;"):
        compare(frame(A), frame({(1, 100): [3.0]}))
    with pytest.raises(UserError, match=r"methods memft-ot, sft; B has .*methods memft-sw;"):
        compare(methods("sft", "memft-ot"), methods("memft-sw"))


def test_other_settings_that_differ_are_said():
    a = frame(A, learning_rate=0.01, steps=400, layers=[[4]] * 7, alpha=None, init="paper")
    b = frame(B, learning_rate=0.003, steps=400.0, layers="[4]", alpha=np.nan, model="other").assign(
        samples=[1, 1, 1, 2, 2, 2, 1]
    )
    notes = "\n".join(compare(a.assign(samples=1), b).notes)
    assert (
        "Not the same experiment: samples 1 against 1 or 2 in 1 of 2 cells; learning_rate 0.01 against 0.003." in notes
    )
    assert "A does not say its model" in notes and "B does not say its init" in notes
    assert "steps" not in notes and "layers" not in notes and "alpha" not in notes
    assert "alpha none against 32" in "\n".join(compare(a, b.assign(alpha=32)).notes)
    assert compare(frame(A), frame(B)).notes == ()
    mixed = compare(a.assign(learning_rate=[0.1, 0.2, 0.2, *[0.1] * 4]), a)
    assert any(note.startswith("A: 1 cells mix runs that differ in learning_rate") for note in mixed.notes)
    loose = compare(a, b.assign(loss_from="last training epoch, dropout on"))
    assert "B's loss_from is last training epoch, dropout on in 2 of 2 cells." in loose.notes


def test_bases_that_start_apart_are_said():
    text = describe_comparison(compare(frame(A), frame(B).assign(loss_initial=9.5)))
    assert "The bases start 0 nats apart on average (B − A), at most +0.5" in text


def test_the_same_set_twice_does_not_differ():
    one = simulate(SMALL, 0)
    found = compare(one, one, bootstrap=50)
    final = found.overall["final"]
    assert (final.mean, final.low, final.high, final.rms) == (0, 0, 0, 0)
    assert (found.cells[["final_low", "final_high"]] == 0).all(axis=None)
    assert verdict(found) == "A and B end at exactly the same loss in 16 matched cells."
    assert all(value.difference == value.low == value.high == 0 for value in found.laws[0].differences.values())


def test_the_order_of_the_rows_does_not_matter():
    a, b = simulate(SMALL, 0), simulate(SMALL, 1).assign(seed=lambda f: f["seed"] + 10)
    shuffled = [one.sample(frac=1, random_state=3).reset_index(drop=True) for one in (a, b)]
    one, other = compare(a, b).to_dict(), compare(*shuffled).to_dict()
    for content in (one, other):
        for pair in content["laws"]:
            for side in "ab":
                pair[side]["created"] = ""
    assert json.dumps(one) == json.dumps(other)


losses = st.lists(st.floats(0, 10), min_size=1, max_size=3)
sets = st.dictionaries(st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([32, 64, 128])), losses, min_size=1)


@settings(max_examples=30, deadline=None)
@given(a=sets, b=sets, offset=st.sampled_from([0, 5]))
def test_swapping_the_sides_negates_every_difference(a, b, offset):
    ours, theirs = frame(a), frame(b).assign(seed=lambda f: f["seed"] + offset)
    if not a.keys() & b.keys():
        with pytest.raises(UserError, match="share no cell"):
            compare(ours, theirs)
        return
    there, back = compare(ours, theirs, bootstrap=0), compare(theirs, ours, bootstrap=0)
    assert len(there.cells) == len(a.keys() & b.keys())
    assert {(one["rank"], one["length"]) for one in there.only_a} == a.keys() - b.keys()
    assert [one | {"reason": ""} for one in there.only_a] == [one | {"reason": ""} for one in back.only_b]
    for name in ("final", "delta"):
        # One interval is the other's mirror image; their ends are sums in another order.
        np.testing.assert_allclose(there.cells[f"{name}_difference"], -back.cells[f"{name}_difference"], atol=1e-12)
        np.testing.assert_allclose(there.cells[f"{name}_low"], -back.cells[f"{name}_high"], atol=1e-9, rtol=1e-9)
    one, other = there.overall["final"], back.overall["final"]
    assert (one.mean, one.largest) == pytest.approx((-other.mean, -other.largest), abs=1e-12)
    assert one.rms == pytest.approx(other.rms) and (one.lower, one.higher) == (other.higher, other.lower)
    assert (one.low is None) == (one.cells < 5)
    if one.low is not None:
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    json.dumps(there.to_dict(), allow_nan=False)


def square(design, s, **columns):
    return simulate(design, s).assign(exact_match=0.5, **columns)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (frame({(4, 64): [1.0]}), frame({(4, 64): [1.5]})),
        (frame({(4, 64): [1.0, 1.1], (4, 128): [2.0, 2.2]}), frame({(4, 64): [1.5], (4, 128): [2.5]})),
        (square(BASE.but(lengths=range(4000, 36000, 4000)), 0), square(BASE.but(lengths=range(4000, 36000, 4000)), 1)),
        (methods("sft", "memft-ot"), methods("memft-ot", "sft", s=5)),
        (frame(A), frame(A)),
    ],
    ids=["one cell", "two cells", "56 cells", "two methods", "no difference"],
)
def test_everything_is_written_for_every_grid(a, b, tmp_path):
    found, written, words = compare_and_draw(a, b, tmp_path / "out", bootstrap=50)
    assert [path.name for path in written] == [f"compare.{kind}" for kind in ("csv", "json", "md", "png", "svg")]
    assert len(pd.read_csv(written[0])) == len(found.cells)
    content = json.loads(written[1].read_text())
    assert len(content["cells"]) == len(found.cells)
    assert content["cells"][0]["final_difference"] == found.cells["final_difference"][0]
    assert content["verdict"] in words and content["verdict"] in written[2].read_text()
    assert min(struct.unpack(">II", written[3].read_bytes()[16:24])) > 300


def test_a_mistake_writes_nothing(tmp_path):
    with pytest.raises(UserError):
        compare_and_draw(frame(A), frame({(1, 100): [3.0]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
