"""Verdicts about methods and about p = ½, on results whose truth is known."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from common import methods, phase, table_2
from common.given import Given
from common.table_2 import Setting

from memlaw_jax.analysis import compare_methods

SETTING = Setting(
    task="long_context",
    measure="token_accuracy_free",
    words="tokens right",
    other="token_accuracy",
    recall="token_accuracy",
    twins={name: name for name in ("sft", "memft-ot", "memft-sw")},
    scale={},
    tiny=(),
    control=(),
)
GIVEN = Given(argparse.Namespace(scale="embedded", pytorch=None), "memft_long_context")


def runs(truth: dict[str, dict[int, float]], noise: float = 0.005) -> pd.DataFrame:
    """Three seeds at two lengths of each method with these accuracies by rank; the longer length is worse by 0.1."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "task": "long_context", "method": method, "rank": rank, "length": length, "seed": seed, "samples": 1,
            "dataset": f"data{seed}-{length}", "token_visits": 600 * length, "loss_initial": 8.0, "loss_final": 2.0,
            "token_accuracy_free": value - (0.1 if length == 160 else 0.0) + noise * rng.normal(),
        }
        for method, ranks in truth.items()
        for rank, value in ranks.items()
        for length in (64, 160)
        for seed in (0, 1, 2)
    )  # fmt: skip


REGIMES = {
    "sft": {4: 0.2, 8: 0.3, 12: 0.5, 16: 0.6},
    "memft-ot": {4: 0.3, 8: 0.4, 12: 0.8, 16: 0.9},
    "memft-sw": {4: 0.5, 8: 0.6, 12: 0.6, 16: 0.7},
}


def verdicts(frame: pd.DataFrame) -> dict[str, str]:
    found = compare_methods(frame)
    averaged = methods._over_lengths(frame, SETTING.measure)
    claims = [*methods._ahead(found, compare_methods(averaged), SETTING), *methods._regimes(averaged, SETTING)]
    return {claim.claim: claim.verdict for claim in claims}


def test_both_regimes_are_seen():
    assert set(verdicts(runs(REGIMES)).values()) == {"holds"}


def test_regimes_the_other_way_round_are_seen():
    turned = REGIMES | {"memft-ot": REGIMES["memft-sw"], "memft-sw": REGIMES["memft-ot"]}
    found = verdicts(runs(turned))
    assert found["memft-sw leads at low ranks and memft-ot at high ranks"] == "does not hold"


def test_a_single_rank_is_no_regime():
    lucky = REGIMES | {"memft-sw": {4: 0.35, 8: 0.33, 12: 0.6, 16: 0.7}}
    assert verdicts(runs(lucky))["memft-sw leads at low ranks and memft-ot at high ranks"] != "holds"


def test_equal_methods_are_undecided_or_worse():
    same = dict.fromkeys(REGIMES, REGIMES["sft"])
    assert "holds" not in verdicts(runs(same, noise=0.05)).values()


def test_table_2_is_the_mean_over_the_lengths():
    frame = runs({name: {16: 0.9} for name in REGIMES}, noise=0.0)
    rows = {(row.section, row.what): row for row in table_2.rows(GIVEN, frame, SETTING)}
    row = rows["tokens right, %, mean over ℓ", "rank 16, sft"]
    assert row.ours == "85.0" and row.paper == "33.1"
    assert rows["tokens right, %, ℓ = 160", "rank 16, sft"].ours == "80.0"
    assert rows["tokens right, %, mean over ℓ", "rank 256, memft-sw"].ours == ""
    # A seed without one of the lengths would shift the mean.
    short = frame[(frame["seed"] < 2) | (frame["length"] == 64)]
    assert {row.ours for row in table_2.rows(GIVEN, short, SETTING) if "mean over" in row.section} == {"", "85.0"}
    assert set(methods._over_lengths(short, SETTING.measure)["seed"]) == {0, 1}


@pytest.mark.parametrize(("above", "bound"), [(300, "0.994"), (3000, "0.0998")])
def test_no_miss_is_bounded_by_the_rule_of_three(above: int, bound: str):
    assert phase._missed(0, above) == f"0 of {above:,} (below {bound} % with 95 % confidence)"
    assert phase._missed(0, 0) == "no token above ½"
    assert "100" in phase._missed(5, 5)


def test_one_miss_above_a_half_ends_the_claim():
    assert phase._enough("x", 0, 10, "").verdict == "holds"
    assert phase._enough("x", 1, 10, "").verdict == "does not hold"
    assert phase._enough("x", 0, 0, "").verdict == "undecided"


def test_a_low_loss_without_recall_is_counted():
    table = pd.DataFrame({"loss_final": [0.5, 0.3, 2.0], "decoupled": [True, False, False], "samples": [1, 10, 1]})
    claim = phase._decoupled("float32", SimpleNamespace(runs=table))
    assert claim.verdict == "holds" and "1 of 1 with one long text, 0 of 1 with a phone book" in claim.evidence
