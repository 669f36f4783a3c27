"""Training curves: read back as they were written, also of resumed and torn runs, and drawn as means over seeds."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from memlaw_jax.analysis import read_curves
from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.curves import COLUMNS
from memlaw_jax.analysis.figures import draw_training_curves
from memlaw_jax.errors import UserError

TAGS = {column: tag for tag, column in COLUMNS.items()}
RUN = {"task": "long_context", "method": "sft", "rank": 4, "length": 64, "seed": 0, "loss_initial": 9, "loss_final": 1}


def write_sweep(folder, *runs):
    """A results folder; `runs` are changes to the record, and the points of each time that its cell was started."""
    folder.mkdir(parents=True)
    lines = []
    for number, (changes, *starts) in enumerate(runs):
        record = RUN | {"cell_id": f"{number:016x}"} | changes
        lines.append(json.dumps(record) + "\n")
        place = folder / "tensorboard" / f"{record['method']}-r{record['rank']}-lr0.01-{record['cell_id']}"
        for turn, points in enumerate(starts):
            write_events(place, 100.0 * (turn + 1), points)
    (folder / "results.jsonl").write_text("".join(lines))
    return folder


def write_events(place, start, points):
    """Points (step, column or tag, value) as the sweep's own writer puts them, a second apart."""
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    place.mkdir(parents=True, exist_ok=True)
    writer = EventsWriter(str(place / f"events{-start}"))  # names fall as the clock rises: only the clock can tell
    for i, (step, column, value) in enumerate(points):
        summary = scalar(TAGS.get(column, column), value)
        writer.write_event(Event(wall_time=start + i, step=step, summary=summary))
    writer.close()


def test_every_point_comes_back_beside_its_record(tmp_path):
    values = {"loss": 2.5, "token_accuracy": 0.5, "share_above_half": 0.25, "exact_match": 0.125, "active_tokens": 1.0}
    first = [(0, column, value) for column, value in values.items()] + [(0, "train/gradient_norm", 7.0)]
    second = [(12, "loss", 1.5), (12, "token_accuracy", 0.75), (400, "final/exact_match", 1.0)]
    folder = write_sweep(tmp_path / "a", ({}, first + second), ({"rank": 8, "seed": 3, "method": "memft-ot"}, first))
    curves = read_curves(folder)
    assert list(curves) == ["cell_id", "task", "method", "rank", "length", "seed", "step", *values]
    assert curves["step"].tolist() == [0, 12, 0] and curves["rank"].tolist() == [4, 4, 8]
    assert curves.iloc[0][list(values)].tolist() == list(values.values())
    assert curves.iloc[1][["loss", "token_accuracy"]].tolist() == [1.5, 0.75]
    assert np.isnan(curves.iloc[1]["exact_match"])
    assert curves.iloc[2][["method", "length", "seed"]].tolist() == ["memft-ot", 64, 3]


def test_of_a_resumed_run_the_later_points_count(tmp_path):
    before, after = [(0, "loss", 9.0), (10, "loss", 5.0), (20, "loss", 4.0)], [(10, "loss", 5.5), (30, "loss", 2.0)]
    curves = read_curves(write_sweep(tmp_path / "a", ({}, before, after)))
    assert dict(zip(curves["step"], curves["loss"], strict=True)) == {0: 9.0, 10: 5.5, 20: 4.0, 30: 2.0}


@pytest.mark.parametrize("lost", [1, 5, 30])
def test_a_torn_tail_is_left_out(tmp_path, lost):
    folder = write_sweep(tmp_path / "a", ({}, [(0, "loss", 9.0), (10, "loss", 5.0), (20, "loss", 4.0)]))
    (events,) = folder.glob("tensorboard/*/events*")
    events.write_bytes(events.read_bytes()[:-lost])
    assert read_curves(folder)["step"].tolist() == [0, 10]


def test_folders_are_joined_in_their_order(tmp_path):
    parts = [
        write_sweep(tmp_path / name, ({"seed": seed, "cell_id": name * 16}, [(0, "loss", 9.0)]))
        for seed, name in enumerate("ba")
    ]
    assert read_curves(parts)["seed"].tolist() == [0, 1]


def test_a_cell_that_is_not_finished_is_left_out(tmp_path):
    folder = write_sweep(tmp_path / "a", ({}, [(0, "loss", 9.0)]))
    write_events(folder / "tensorboard" / "sft-ffff", 1.0, [(0, "loss", 8.0)])
    assert read_curves(folder)["loss"].tolist() == [9.0]


def test_a_folder_without_curves_is_named(tmp_path):
    good, bare = (
        write_sweep(tmp_path / "good", ({}, [(0, "loss", 9.0)])),
        write_sweep(tmp_path / "bare", ({"seed": 1},)),
    )
    with pytest.raises(UserError, match=r"bare has no training curves"):
        read_curves(bare)
    (bare / "tensorboard").mkdir()
    with pytest.raises(UserError, match=r"bare has no training curves"):
        read_curves(bare)
    with pytest.raises(UserError, match="there is no"):
        read_curves(good / "tensorboard")


def curves(ranks=(4,), seeds=(0, 1), methods=("sft",), steps=(0, 10, 20), length=64):
    """Loss 8 / rank at step 0, falling by a tenth of it a step of ten, ten times as much in seed 1."""
    rows = [
        {"cell_id": f"{method}{rank}{seed}", "task": "long_context", "method": method, "rank": rank, "length": length,
         "seed": seed, "step": step, "loss": (1 + 9 * seed) * (8 - 0.08 * step) / rank, "exact_match": step / 20}
        for method in methods for rank in ranks for seed in seeds for step in steps
    ]  # fmt: skip
    return pd.DataFrame(rows)


def bold(axes):
    return [line for line in axes.lines if line.get_linewidth() >= 2]


def test_a_line_is_the_mean_over_seeds_and_ln_2_is_marked():
    (axes,) = draw_training_curves(curves()).axes
    (mean,) = bold(axes)
    assert mean.get_xdata().tolist() == [0, 10, 20]
    np.testing.assert_allclose(mean.get_ydata(), [11, 9.9, 8.8])
    assert axes.get_yscale() == "log"
    assert sum(np.array_equal(line.get_ydata(), [SATURATED] * 2) for line in axes.lines) == 1
    assert len([line for line in axes.lines if line.get_linewidth() < 0.9]) == 2
    assert axes.get_ylim()[0] < SATURATED


def test_seeds_with_other_steps_are_joined_first_and_one_that_ended_counts_on():
    table = curves()
    table = table[~((table["seed"] == 1) & (table["step"] == 10))]
    (mean,) = bold(draw_training_curves(table).axes[0])
    np.testing.assert_allclose(mean.get_ydata(), [11, 9.9, 8.8])
    ended = curves()
    (mean,) = bold(draw_training_curves(ended[~((ended["seed"] == 1) & (ended["step"] == 20))]).axes[0])
    np.testing.assert_allclose(mean.get_ydata(), [11, 9.9, (1.6 + 18) / 2])


def test_at_most_six_ranks_with_both_ends_and_a_line_a_method():
    made = draw_training_curves(
        curves(ranks=(1, 2, 3, 4, 6, 8, 12, 16, 24), methods=("sft", "memft-sw")), "exact_match"
    )
    assert [axes.get_title("left") for axes in made.axes] == [f"rank {rank}" for rank in (1, 3, 4, 8, 12, 24)]
    for axes in made.axes:
        assert len({line.get_color() for line in bold(axes)}) == len(bold(axes)) == 2
        assert axes.get_yscale() == "linear"
    assert [text.get_text() for text in made.legends[0].get_texts()] == ["sft", "memft-sw", "a seed"]


def test_what_one_figure_cannot_show_is_refused():
    with pytest.raises(UserError, match="one length, not 64, 128"):
        draw_training_curves(pd.concat([curves(), curves(length=128)]))
    with pytest.raises(UserError, match="no training curve of p_min"):
        draw_training_curves(curves(), "p_min")
    with pytest.raises(UserError, match="several runs"):
        draw_training_curves(pd.concat([curves(), curves().assign(cell_id="other", seed=0)]))
