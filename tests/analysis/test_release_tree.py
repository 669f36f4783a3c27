"""The output tree of the paper's release, as its scripts lay it out (written here by hand, with small numbers)."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from memlaw_jax.analysis import fit_law, read_frame
from memlaw_jax.errors import UserError

from .simulate import BASE

HEADER = ["epoch", "step", "pos_steer_loss", "pos_ref_loss", "pos_steering_factors", "token_nums"]
ONLY = ["pos_steer_loss_target_only", "pos_ref_loss_target_only", "token_nums_target_only"]
# As torch prints a long tensor: over several lines, in quotes, so that a row is not a line.
FACTORS = "tensor([1., 1.,\n        1.], device='cuda:0')"


def log(path: Path, rows: list[list[object]], extra: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER + (extra or []), *rows])
    return path


def leaf(rank: int, length: int, method: str = "sft", model: str = "qwen3-8b", subset: str = "random") -> str:
    return f"pb/{method}/{model}/{subset}/length_{length}/layer_24/rank_{rank}"


TRAINING = [
    [0, 0, 9.0, 8.0, FACTORS, 10],
    [0, 1, 7.0, 5.0, FACTORS, 30],
    [1, 0, 3.0, 8.0, FACTORS, 10],
    [1, 1, 1.0, 5.0, FACTORS, 30],
]
FINAL = [[0, 0, 0.5, 6.0, "tensor([1.])", 12], [0, 1, 0.25, 4.0, "tensor([1.])", 4]]


def quietly(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_frame(path)


def test_the_final_loss_pass_wins_over_the_training_log(tmp_path):
    log(tmp_path / "vectors" / leaf(8, 1000) / "losses.csv", TRAINING)
    log(tmp_path / "generation" / leaf(8, 1000) / "final_loss" / "train_losses.csv", FINAL)
    (tmp_path / "generation" / leaf(8, 1000) / "final_loss" / "summary_final_loss.csv").write_text("who,knows\n1,2\n")
    run = quietly(tmp_path).iloc[0]
    assert run["loss_final"] == pytest.approx((12 * 0.5 + 4 * 0.25) / 16)
    assert run["loss_initial"] == pytest.approx((12 * 6 + 4 * 4) / 16)
    told = {"rank": 8, "length": 1000, "method": "sft", "model": "qwen3-8b", "dataset": "random", "task": "phonebook"}
    assert {name: run[name] for name in told} == told and run["layers"] == [24]
    assert run["loss_from"] == "final_loss" and run["loss_over"] == "trained tokens"


def test_without_it_the_last_epoch_stands_in_and_that_is_said_once(tmp_path):
    for rank in (4, 8):
        log(tmp_path / leaf(rank, 1000) / "losses.csv", TRAINING)
    with pytest.warns(UserWarning, match="2 of 2 runs have no final-loss pass.*dropout on") as said:
        frame = read_frame(tmp_path)
    assert len(said) == 1
    assert list(frame["rank"]) == [4, 8] or list(frame["rank"]) == [8, 4]
    np.testing.assert_allclose(frame["loss_final"], (10 * 3 + 30 * 1) / 40)
    np.testing.assert_allclose(frame["loss_initial"], (10 * 8 + 30 * 5) / 40)
    assert set(frame["loss_from"]) == {"last training epoch, dropout on"}


def test_target_tokens_alone_count_where_they_were_logged(tmp_path):
    rows = [[0, 0, 9.0, 9.0, "tensor([1.])", 12, 0.5, 6.0, 10], [0, 1, 9.0, 9.0, "tensor([1.])", 12, 0.2, 5.0, 5]]
    log(tmp_path / leaf(8, 1000) / "final_loss" / "train_losses.csv", rows, ONLY)
    run = quietly(tmp_path).iloc[0]
    assert run["loss_final"] == pytest.approx((0.5 * 10 + 0.2 * 5) / 15)
    assert run["loss_initial"] == pytest.approx((6 * 10 + 5 * 5) / 15)
    assert run["loss_over"] == "target tokens"


def test_methods_models_and_subsets_are_told_apart(tmp_path):
    for method in ("sft", "memft_ot", "memft_sw"):
        log(tmp_path / leaf(2, 500, method) / "final_loss" / "train_losses.csv", FINAL)
    log(tmp_path / leaf(2, 500, model="llama3.1-8b") / "final_loss.csv", FINAL)
    other = tmp_path / "long_context/sft/qwen3-8b/r100/attempt-a/length_500/layer_24/rank_2/final_loss/train_losses.csv"
    log(other, FINAL)
    frame = quietly(tmp_path)
    assert len(frame) == 5 and set(frame["method"]) == {"sft", "memft-ot", "memft-sw"}
    assert set(frame["model"]) == {"qwen3-8b", "llama3.1-8b"}
    assert set(frame["dataset"]) == {"random", "r100/attempt-a"} and set(frame["task"]) == {"phonebook", "long_context"}


def test_a_part_of_the_tree_knows_what_stands_above_it(tmp_path):
    file = log(tmp_path / leaf(8, 1000, "memft_ot") / "final_loss" / "train_losses.csv", FINAL)
    whole = quietly(tmp_path)
    for place in (file.parents[4], file.parent, file):
        columns = list(whole.columns)
        assert quietly(place)[columns].map(str).equals(whole[columns].map(str)), place


def test_a_flat_folder_will_do(tmp_path):
    for rank in (1, 2):
        log(tmp_path / "flat" / f"memft_ot_rank_{rank}_length_1000_losses.csv", TRAINING)
    log(tmp_path / "flat" / "memft_ot_rank_2_length_1000_final_loss.csv", FINAL)
    with pytest.warns(UserWarning, match="1 of 2 runs"):
        frame = read_frame(tmp_path / "flat").sort_values("rank")
    assert list(frame["rank"]) == [1, 2] and set(frame["length"]) == {1000} and set(frame["method"]) == {"memft-ot"}
    np.testing.assert_allclose(frame["loss_final"], [1.5, 7 / 16])
    assert "layers" not in frame and "model" not in frame


def test_seeds_are_runs_of_one_cell(tmp_path):
    for seed in (42, 43):
        log(tmp_path / f"seed_{seed}" / leaf(8, 1000) / "final_loss" / "train_losses.csv", FINAL)
    assert sorted(quietly(tmp_path)["seed"]) == [42, 43]


def test_a_training_that_did_not_end_is_left_out(tmp_path):
    log(tmp_path / leaf(8, 1000) / "train_losses.csv", TRAINING)  # the script renames it at the end
    with pytest.warns(UserWarning, match="1 trainings"), pytest.raises(UserError, match="no finished run"):
        read_frame(tmp_path)


def test_a_loss_that_is_no_number_is_a_diverged_run(tmp_path):
    log(tmp_path / leaf(8, 1000) / "final_loss" / "train_losses.csv", [[0, 0, "nan", 6.0, "tensor([1.])", 12]])
    log(tmp_path / leaf(4, 1000) / "final_loss" / "train_losses.csv", FINAL)
    frame = quietly(tmp_path)
    assert list(frame["rank"]) == [4]
    assert frame.attrs["diverged"] == ({"rank": 8, "length": 1000, "method": "sft"},)


def test_a_law_can_be_fitted_to_a_tree(tmp_path):
    design = BASE.without_noise()
    for rank in design.ranks:
        for length in design.lengths:
            loss = max(float(design.initial - design.mean(rank, length)), 0.0)
            rows = [[0, i, loss, design.initial, "tensor([1.])", 10] for i in range(2)]
            log(tmp_path / leaf(rank, length) / "final_loss" / "train_losses.csv", rows)
    law = fit_law(tmp_path, bootstrap=0)
    assert law.alpha == pytest.approx(design.alpha, abs=1e-6) and law.beta == pytest.approx(design.beta, abs=1e-6)
    assert law.method == "sft" and law.source == (str(tmp_path),)


def bad(path: Path, rows: list[list[object]]) -> Path:
    return log(path / leaf(8, 1000) / "final_loss" / "train_losses.csv", rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 0, 0.5, 6.0, FACTORS, 12], [0, 1, "low", 4.0, FACTORS, 4]], "line 4: pos_steer_loss is low"),
        ([[0, 0, 0.5, "", "tensor([1.])", 12]], "line 2: pos_ref_loss is empty"),
        ([[0, 0, 0.5, "nan", "tensor([1.])", 12]], "line 2: pos_ref_loss is nan"),
        ([[0, 0, -0.5, 6.0, "tensor([1.])", 12]], r"line 2: pos_steer_loss is -0\.5"),
        ([[0, 0, 0.5]], "line 2: (pos_ref_loss|token_nums) is empty"),
        ([[0, 0, 0.5, 6.0, "tensor([1.])", 0]], "no row with trained tokens"),
        ([], "no row with trained tokens"),
    ],
)
def test_bad_values_are_named_by_file_line_and_value(tmp_path, rows, message):
    file = bad(tmp_path, rows)
    with pytest.raises(UserError, match=message) as told:
        read_frame(tmp_path)
    assert str(file) in str(told.value)


def test_bad_files_and_paths(tmp_path):
    nameless = log(tmp_path / "x" / "losses.csv", TRAINING)
    with pytest.raises(UserError, match="the path names no rank"):
        read_frame(nameless.parent)
    with pytest.raises(UserError, match="the path names no length"):
        read_frame(log(tmp_path / "y" / "rank_8" / "losses.csv", TRAINING))
    log(tmp_path / "z" / leaf(8, 1000) / "final_loss" / "train_losses.csv", FINAL)
    twice = log(tmp_path / "z" / "again" / leaf(8, 1000) / "final_loss" / "train_losses.csv", FINAL)
    with pytest.raises(UserError, match=r"are both the losses of rank 8, length 1000") as told:
        read_frame(tmp_path / "z")
    assert str(twice) in str(told.value)
    (tmp_path / "v" / leaf(8, 1000)).mkdir(parents=True)
    (tmp_path / "v" / leaf(8, 1000) / "losses.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(UserError, match="no column epoch, token_nums, pos_steer_loss, pos_ref_loss"):
        read_frame(tmp_path / "v")
    (tmp_path / "v" / leaf(8, 1000) / "losses.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no CSV table"):
        read_frame(tmp_path / "v")


def test_a_plain_table_is_read_as_before_whatever_its_name(tmp_path):
    (tmp_path / "losses.csv").write_text("rank,length,loss_initial,loss_final\n1,100,8,5\n")
    assert list(read_frame(tmp_path / "losses.csv")["rank"]) == [1]
