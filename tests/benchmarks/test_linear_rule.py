"""The table and the verdicts of `linear_rule.py`."""

from __future__ import annotations

import linear_rule
import pandas as pd
import pytest

from memlaw_jax.analysis.figures import draw_rule
from memlaw_jax.tasks import LinearRule

LEADS = (0.10, 0.11, 0.12)  # of MemFT over SFT, a seed


def runs(memory=LEADS, unseen=(0.0, 0.0, 0.0), base=0.3) -> pd.DataFrame:
    """Two ranks, three seeds, and how far MemFT is ahead of SFT in memory and on unseen pairs."""
    made = []
    for seed in range(3):
        for rank in (1, 2):
            for method in ("sft", "memft-ot"):
                ahead = method == "memft-ot"
                made.append(
                    {
                        "dataset": f"pairs{seed}", "seed": seed, "rank": rank, "method": method,
                        "exact_match": base * rank + ahead * memory[seed], "adapter": "bypass", "targets": ["mlp"],
                        "heldout": {"exact_match": 0.005 + ahead * unseen[seed]},
                    }
                )  # fmt: skip
    return linear_rule.measured(pd.DataFrame(made))


def verdicts(frame: pd.DataFrame) -> list[str]:
    return [claim.verdict for claim in linear_rule.rule_claims("bypass", frame, 0.007)]


def test_rows_have_both_shares_with_their_intervals_beside_the_papers():
    rows = linear_rule.rule_rows("bypass", runs(), None)
    assert [row.paper for row in rows] == ["83 / 19", "100 / 38", "95 / 34", "97 / 47"]
    assert rows[0].ours == "30.0 / 0.5"
    assert rows[3].ours == "71.0 ± 2.5 / 0.5"  # t of 2 degrees of freedom, 4.303, times 0.01 / √3


@pytest.mark.parametrize(("leads", "said"), [
    (LEADS, "holds"),
    ([-lead for lead in LEADS], "does not hold"),
    ((-0.1, 0.1, 0.1), "undecided"),
])  # fmt: skip
def test_the_interval_of_the_paired_lead_decides(leads, said):
    assert verdicts(runs(memory=leads))[0] == said


def test_where_neither_method_is_above_a_constant_answer_there_is_nothing_to_tell():
    assert verdicts(runs(unseen=(0.001, 0.001, 0.001)))[1] == "undecided"
    assert verdicts(runs(unseen=LEADS))[1] == "holds"


def test_one_seed_decides_nothing():
    assert verdicts(runs().query("seed == 0")) == ["undecided", "undecided"]


def test_a_constant_answer_is_the_most_frequent_value():
    assert linear_rule.constant_answer(LinearRule(pairs=3, heldout=0, largest=1)) == 0.25
    assert linear_rule.constant_answer(LinearRule(pairs=3, heldout=0, largest=5)) == 2 / 36  # (0, 3) and (5, 0)


def test_a_pytorch_run_stands_beside_the_adapter_that_it_has():
    frame = runs().drop(columns=["memory", "generalisation"])
    assert len(linear_rule._torch(frame, "bypass")) == len(frame)
    assert linear_rule._torch(frame, "all_linear").empty
    assert linear_rule._torch(frame.drop(columns="heldout"), "bypass") is None


def test_each_adapter_has_its_panels():
    frame = pd.concat([runs(), runs(unseen=LEADS).assign(adapter="all_linear")])
    made = draw_rule(frame)
    assert [axes.get_title("left").split(", ")[1] for axes in made.axes] == [
        "bypass",
        "bypass",
        "all linear",
        "all linear",
    ]
    assert all(len(axes.lines) == 4 for axes in made.axes)
