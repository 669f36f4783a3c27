"""The paper's figures that need no sweep of their own kind: densities, exponents, probability grids."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex

from memlaw_jax.analysis import fit_law, pool, read_tokens
from memlaw_jax.analysis.figures import draw_all, draw_density, draw_exponents, draw_probability_grid, style
from memlaw_jax.analysis.figures.probability_grid import SAMPLES
from memlaw_jax.errors import UserError

from .simulate import BASE, simulate
from .simulate_tokens import run_arrays, write_folder


@pytest.fixture(scope="module")
def laws():
    return {
        name: fit_law(simulate(BASE.but(C=C), i), bootstrap=40) for i, (name, C) in enumerate((("r0", 20), ("r$", 60)))
    }


def dots(axes):
    return [line for line in axes.lines if line.get_marker() == "o"]


def test_every_cell_of_each_density_is_drawn_in_its_own_panel(laws):
    made = draw_density(laws)
    assert len(made.axes) == 3  # with the colours' key
    counted = 0
    for axes, law in zip(made.axes, laws.values(), strict=False):
        solid = [dot for dot in dots(axes) if to_hex(dot.get_markerfacecolor()) != "#ffffff"]
        spots = sorted((float(dot.get_xdata()[0]), float(dot.get_ydata()[0])) for dot in solid)
        assert spots == sorted((cell.predicted, cell.delta) for cell in law.used)
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert axes.get_xlim() == axes.get_ylim() == made.axes[0].get_xlim()
        assert (
            f"{law.r2:.4f}" in axes.texts[0].get_text() and f"MAPE {100 * law.mape:.1f} %" in axes.texts[0].get_text()
        )
        counted += len(law.cells) - len(dots(axes))
    said = [text.get_text() for text in made.legends[0].get_texts()]
    assert counted > 0 and f"({counted} beyond the axes not shown)" in said


def test_exponents_stand_with_their_intervals_and_the_combined_one_last(laws):
    together = pool(laws, bootstrap=40)
    made = draw_exponents(laws, together)
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == ["r0", r"r\$", "combined"]
    for axes, name in zip(made.axes, ("alpha", "beta"), strict=True):
        assert [dot.get_xdata()[0] for dot in dots(axes)] == [getattr(law, name) for law in (*laws.values(), together)]
        bars = [tuple(np.asarray(line.get_xdata())) for line in axes.lines if line.get_marker() == "|"]
        assert bars == [*(law.interval(name) for law in laws.values()), together.intervals[name]]


def test_laws_without_draws_have_no_bars(laws):
    bare = {name: dataclasses.replace(law, draws=None) for name, law in laws.items()}
    made = draw_exponents(bare)
    assert all(len(axes.lines) == 2 for axes in made.axes)


def colours(axes):
    """Blue (above ½) or not of every cell, NaN where there is none."""
    mesh = axes.collections[0]
    rgba = mesh.to_rgba(mesh.get_array())
    return np.where(np.ma.getmaskarray(mesh.get_array()), np.nan, rgba[..., 2] > rgba[..., 0])


def marks(axes):
    return [tuple(map(float, spot)) for line in axes.lines for spot in zip(*line.get_data(), strict=True)]


def test_a_row_a_rank_is_told_apart_at_one_half_and_its_first_failure_is_marked(tmp_path):
    p = {1: [0.1, 0.2, 0.49, 0.51], 2: [0.51, 0.49, 0.9, 0.1], 4: [0.51, 0.99, 0.7, 0.49]}
    right = {1: [0, 1, 0, 1], 2: [1, 1, 1, 0], 4: [1, 1, 1, 1]}
    runs = [(run_arrays(p[rank], right[rank]), {"rank": rank, "seed": seed}) for rank in p for seed in (0, 1)]
    runs[1] = (run_arrays([0.9] * 4), runs[1][1])  # seed 1 is not shown
    (axes, _) = draw_probability_grid(read_tokens(write_folder(tmp_path / "a", runs)), "sft").axes
    assert colours(axes).tolist() == [[0, 0, 0, 1], [1, 0, 1, 0], [1, 1, 1, 0]]
    assert marks(axes) == [(0, 0), (3, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "4"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top


def test_a_row_a_length_ends_where_its_text_does(tmp_path):
    runs = [(run_arrays([0.9] * n), {"rank": rank}) for n in (2, 5) for rank in (4, 8)]
    tokens = read_tokens(write_folder(tmp_path / "a", runs))
    (axes, _) = draw_probability_grid(tokens, "sft", rank=8).axes
    assert np.isnan(colours(axes)).tolist() == [[False] * 2 + [True] * 3, [False] * 5]
    assert not marks(axes)
    with pytest.raises(UserError, match="no run of sft has rank 3"):
        draw_probability_grid(tokens, "sft", rank=3)
    with pytest.raises(UserError, match="no run of memft-ot"):
        draw_probability_grid(tokens, "memft-ot")
    with pytest.raises(UserError, match="one of the two"):
        draw_probability_grid(tokens, "sft", rank=4, length=5)


def test_several_samples_are_the_rows_of_a_panel_each_rank(tmp_path):
    book = np.repeat(np.arange(SAMPLES + 20), 3)
    p = np.tile([0.9, 0.3, 0.9], SAMPLES + 20)
    runs = [(run_arrays(p, sample=book), {"rank": 1}), (run_arrays(np.full_like(p, 0.8), sample=book), {"rank": 2})]
    made = draw_probability_grid(read_tokens(write_folder(tmp_path / "a", runs)), "sft")
    first, second = made.axes[:2]
    assert [axes.get_title("left") for axes in (first, second)] == ["rank 1", "rank 2"]
    assert colours(first).tolist() == [[1, 0, 1]] * SAMPLES and colours(second).all()
    assert marks(first) == [(1, row) for row in range(SAMPLES)] and not marks(second)
    style.save(made, tmp_path, "grid")


def test_free_running_accuracy_is_mapped_where_it_was_measured(tmp_path):
    frame = simulate(BASE.but(seeds=1), 0)
    law = fit_law(frame, bootstrap=0)
    assert not any("free" in path.name for path in draw_all(frame, law, tmp_path / "a"))
    names = {path.name for path in draw_all(frame.assign(token_accuracy_free=0.25), law, tmp_path / "b")}
    assert "heat_token_accuracy_free.png" in names
