"""The microscope's figures are written for every folder that can be read. (What they look like, eyes must judge.)"""

from __future__ import annotations

import numpy as np
import pytest

from memlaw_jax.analysis import draw_microscope, look_and_draw, microscope, read_tokens
from memlaw_jax.analysis.figures import draw_decoupling, draw_failures, draw_order, draw_positions, style
from memlaw_jax.errors import UserError

from .simulate_tokens import run_arrays, simulated_sweep, write_folder
from .test_figures import check

TABLES = {"microscope.json", "stubborn.csv", "stubborn_by_rank.csv", "stubborn.md"}


def pictures(paths):
    assert all(path.read_bytes() for path in paths)
    assert {path.name for path in paths if path.suffix not in (".png", ".svg")} == TABLES
    return [path for path in paths if path.suffix in (".png", ".svg")]


def test_look_and_draw_writes_everything_that_two_methods_allow(tmp_path):
    folder = simulated_sweep(tmp_path / "a", ranks=(1, 4), lengths=(40,), methods=("sft", "memft-ot"), decode=True)
    found, paths, words = look_and_draw(folder, tmp_path / "out")
    names = {f"{name}_{method}" for name in ("p_by_position", "decoupling", "failure_positions")
             for method in ("sft", "memft_ot")}  # fmt: skip
    check(pictures(paths), names | {"recall_vs_p", "subthreshold_vs_failure"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    assert "Spearman's ρ" in words and len(found.runs) == 4


def test_a_folder_where_all_is_recalled_has_no_picture_of_failure(tmp_path):
    folder = write_folder(tmp_path / "a", [(run_arrays(np.full(12, 0.9)), {})])
    check(pictures(draw_microscope(folder, tmp_path / "out")), {"p_by_position", "decoupling", "recall_vs_p"})


def test_a_mistake_writes_nothing(tmp_path):
    with pytest.raises(UserError):
        look_and_draw(simulated_sweep(tmp_path / "a"), tmp_path / "out", threshold=2)
    assert not (tmp_path / "out").exists()


def test_every_token_of_a_long_text_is_drawn_once_and_missed_ones_apart(tmp_path):
    tokens = read_tokens(simulated_sweep(tmp_path / "a", width=None, lengths=(600, 900), seeds=2))
    made = draw_positions(tokens, "sft", length=900)
    assert len(made.axes) == 4
    for axes, rank in zip(made.axes, (1, 2, 4, 8), strict=True):
        right, wrong = (len(dots.get_offsets()) for dots in axes.collections)
        table = tokens.table[(tokens.table["rank"] == rank) & (tokens.table["length"] == 900)]
        first = table[table["seed"] == 0]
        assert (right, wrong) == (first["right"].sum(), (~first["right"]).sum())


def test_crowded_places_are_thinned_and_numbered(tmp_path):
    found = microscope(simulated_sweep(tmp_path / "a", lengths=(4000,), ranks=(1, 8), strength=0.8))
    axes = draw_order(found).axes[0]
    both = found.samples.dropna(subset="first_below")
    places = both.groupby(["first_below", "first_failure"], dropna=False).size()
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == places.clip(upper=120).sum()
    numbers = sorted(int(text.get_text()) for text in axes.texts if text.get_text().isdigit())
    assert numbers == sorted(places[places > 120]) != []


@pytest.mark.parametrize("width", [10, None])
def test_bars_add_up_to_the_samples_that_fail(tmp_path, width):
    found = microscope(simulated_sweep(tmp_path / "a", width=width, strength=1.0))
    for axes, (_, mine) in zip(draw_failures(found, "sft").axes, found.samples.groupby("rank"), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(mine["first_failure"].notna().mean())


def test_decoupling_shows_the_free_running_map_only_where_it_was_decoded_and_marks_diverged_cells(tmp_path):
    for decode, maps in ((False, 3), (True, 4)):
        made = draw_decoupling(microscope(simulated_sweep(tmp_path / str(decode), decode=decode)), "sft")
        titles = [axes.get_title(loc="left") for axes in made.axes]
        assert sum(title != "" for title in titles) == maps
        assert ("Token accuracy, free-running" in titles) is decode
    broken = run_arrays([0.9, 0.9])
    broken["nats"][0] = np.inf
    runs = [(run_arrays([0.9, 0.4]), {}), (broken, {"rank": 9, "loss_final": 1.0})]
    made = draw_decoupling(microscope(write_folder(tmp_path / "diverged", runs)), "sft")
    assert "div" in [text.get_text() for text in made.axes[0].texts]


def test_the_same_tokens_give_the_same_bytes(tmp_path):
    found = microscope(simulated_sweep(tmp_path / "a"))
    one, other = (draw_order(found) for _ in range(2))
    for name, made in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        style.save(made, tmp_path / name, "order")
    for kind in ("png", "svg"):
        assert (tmp_path / "one" / f"order.{kind}").read_bytes() == (tmp_path / "other" / f"order.{kind}").read_bytes()
