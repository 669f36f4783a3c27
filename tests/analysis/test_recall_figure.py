"""The figure of a sweep without a law: drawn without a warning, and one for each method."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from memlaw_jax.analysis.figures import draw_sweep


def runs(methods: tuple[str, ...], loss: float) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"method": method, "rank": rank, "length": 64, "loss_initial": 9.0, "loss_final": loss / rank,
         "exact_match": 1.0, "token_accuracy": 1.0, "stopped": "budget"}
        for method in methods
        for rank in (4, 16)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_loss_far_below_ln_2_leaves_the_panels_their_place(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where an annotation out of view takes all the room
        draw_sweep(runs(("sft",), 0.01), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recall.png", "recall.svg"]


def test_methods_do_not_share_a_line(tmp_path: Path) -> None:
    written = draw_sweep(runs(("sft", "memft-ot"), 1.0), tmp_path)
    assert {path.name for path in written if path.suffix == ".png"} == {"recall_sft.png", "recall_memft_ot.png"}
