"""The table and the verdict of `exact_scenarios.py`."""

from __future__ import annotations

import exact_scenarios
import numpy as np
import pandas as pd

from memlaw_jax.analysis.figures import draw_scenarios


def runs(name: str, smallest: tuple[int, ...], ranks=(1, 2, 4, 8, 16)) -> pd.DataFrame:
    """A seed for each of the smallest ranks that recall all."""
    return pd.DataFrame([
        {
            "scenario": name, "seed": seed, "rank": rank, "samples": 4, "length": 20, "p_min": 0.4 + rank / 100,
            "exact_match": 1.0 if rank >= least else 0.5, "token_accuracy_free": 1.0 if rank >= least else 0.6,
        }
        for seed, least in enumerate(smallest) for rank in ranks
    ])  # fmt: skip


def rows(*smallest: int) -> list[str]:
    return [row.ours for row in exact_scenarios.scenario_rows("gdpr", runs("gdpr", smallest), None)]


def test_the_smallest_rank_is_a_median_with_its_range():
    assert rows(8, 8, 4) == ["8 (4 to 8)", "0.44"]
    assert rows(4, 4, 4) == ["4", "0.44"]


def test_where_no_rank_recalls_all_the_table_says_so():
    assert rows(99, 99, 99) == ["none up to 16", ""]
    assert rows(8, 8, 99) == ["8 (8 to none up to 16)", "0.48"]


def test_what_is_not_decoded_word_for_word_is_not_recalled():
    frame = runs("gdpr", (4,))
    frame.loc[frame["rank"] == 4, "token_accuracy_free"] = 0.9
    assert list(exact_scenarios.smallest(frame)) == [8]


def test_every_scenario_needs_one_small_rank_for_all_seeds_and_the_page_does_not_count():
    frame = pd.concat([runs("gdpr", (2, 8)), runs("latex", (4, 1)), runs("page", (99, 99), (16, 32))])
    claim = exact_scenarios.scenarios_claim(frame)
    assert claim.verdict == "holds" and "2 of 2 files" in claim.evidence and "at rank 8" in claim.evidence
    claim = exact_scenarios.scenarios_claim(pd.concat([frame, runs("nonce", (2, 99))]))
    assert claim.verdict == "does not hold" and claim.evidence.endswith("Not recalled: nonce.")
    assert exact_scenarios.scenarios_claim(runs("nonce", (99,), (1, 2))).verdict == "undecided"


def test_the_figure_has_a_row_a_file_and_leaves_ranks_that_were_not_run_blank():
    axes = draw_scenarios(pd.concat([runs("watermark", (2, 2)), runs("gdpr", (4, 8), (4, 8))])).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["watermark", "gdpr"]
    assert [text.get_text() for text in axes.texts] == ["50", "100", "100", "100", "100", "75", "100"]
    table = axes.collections[0].get_array()
    assert np.isnan(np.ma.filled(table, np.nan)[1]).sum() == 3
