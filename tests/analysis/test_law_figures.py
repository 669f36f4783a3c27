"""The figures of a law say what the law says: every cell, every interval, nothing made up. (Looks, eyes must judge.)"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.path import Path

from memlaw_jax.analysis import fit_law
from memlaw_jax.analysis.figures import (
    draw_all,
    draw_collapse,
    draw_ellipse,
    draw_extrapolation,
    draw_profiles,
    draw_residuals,
    draw_rivals,
    style,
)
from memlaw_jax.analysis.figures.extrapolation import REACH
from memlaw_jax.analysis.report import colour

from .simulate import BASE, simulate

FRAME = simulate(BASE.but(ranks=(1, 2, 4, 8, 16), lengths=(1000, 2000, 4000, 8000, 16000)), 0)


@pytest.fixture(scope="module")
def law():
    return fit_law(FRAME, bootstrap=200)


def dots(axes):
    """Each dot of a panel as (x, y, filled)."""
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    return [
        (float(x), float(y), to_hex(mark.get_markerfacecolor()) != "#ffffff")
        for mark in marks
        for x, y in zip(mark.get_xdata(), mark.get_ydata(), strict=True)
    ]


def test_the_collapse_shows_every_cell_at_its_x_and_the_line_through_it(law):
    assert law.dropped
    for panel in draw_collapse(law).axes[:2]:
        found = {(round(x, 9), round(y, 9), full) for x, y, full in dots(panel)}
        expected = {
            (round(cell.rank**law.alpha * cell.length**-law.beta, 9), round(cell.delta, 9), cell.used)
            for cell in law.cells
        }
        assert found == expected
        line = next(line for line in panel.lines if len(line.get_xdata()) > 1 and to_hex(line.get_color()) == style.INK)
        assert np.allclose(line.get_ydata(), law.C * line.get_xdata() + law.b)


def test_an_offset_far_below_all_cells_does_not_squeeze_them(law):
    steep = dataclasses.replace(law, alpha=0.01, beta=0.01, C=300.0, b=-280.0, draws=None)
    panel = draw_collapse(steep).axes[0]
    low, high = panel.get_ylim()
    assert low > -2 * BASE.initial and high > BASE.initial
    assert all(x >= panel.get_xlim()[0] for x, _, _ in dots(panel))


def test_the_residual_map_is_symmetric_and_says_each_residual_with_its_sign(law):
    axes = draw_residuals(law).axes[0]
    mesh = axes.collections[0]
    assert mesh.norm.vmin == -mesh.norm.vmax
    ranks, lengths = (sorted({getattr(cell, name) for cell in law.cells}) for name in ("rank", "length"))
    said = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(said) == len(law.used)
    assert len(axes.patches) == len(law.dropped)
    for cell in law.used:
        text = said[lengths.index(cell.length) + 0.5, ranks.index(cell.rank) + 0.5]
        rounding = 0.51 * 10.0 ** -len(text.partition(".")[2]) if "." in text else 0.01
        assert float(text.replace("−", "-")) == pytest.approx(cell.delta - cell.predicted, abs=rounding)


def test_the_ellipse_holds_about_95_percent_of_the_draws(law):
    axes = draw_ellipse(law).axes[0]
    outline = next(line for line in axes.lines if to_hex(line.get_color()) == style.ACCENT).get_xydata()
    inside = Path(outline).contains_points(np.stack([law.draw("alpha"), law.draw("beta")], axis=1))
    assert 0.88 < inside.mean() < 0.995  # draws are no perfect normal cloud
    assert "α = β" in {text.get_text() for text in axes.texts}
    assert "α = 1" not in {text.get_text() for text in axes.texts}  # out of view here


def test_profiles_show_both_intervals_and_an_arrow_where_one_is_open(law):
    made = draw_profiles(law)
    assert len(made.axes) == len(law.profiles) == 3
    for axes, profile in zip(made.axes, law.profiles, strict=True):
        bars = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 4]
        assert bars == [(profile.low, profile.high), law.interval(profile.name)]
        best = min(zip(profile.deviance, profile.values, strict=True))[1]
        assert axes.get_xlim()[0] < best < axes.get_xlim()[1]
        curve = next(line for line in axes.lines if line.get_marker() == ".")  # a dot at every point computed
        assert tuple(curve.get_xdata()) == profile.values and tuple(curve.get_ydata()) == profile.deviance
    open_ = dataclasses.replace(law, profiles=(dataclasses.replace(law.profiles[0], low=None),), draws=None)
    axes = draw_profiles(open_).axes[0]
    assert "<" in {line.get_marker() for line in axes.lines} and "open" in axes.get_title(loc="left")


def test_a_bootstrap_far_beyond_the_profile_does_not_squeeze_it(law, monkeypatch):
    monkeypatch.setattr(type(law), "interval", lambda self, name, level=0.95: (-467.0, 3.0))
    axes = draw_profiles(law).axes[2]
    (profile,) = (one for one in law.profiles if one.name == "b")
    shown = np.ptp(axes.get_xlim())
    assert shown < 3 * np.ptp(profile.values)
    assert "<" in {line.get_marker() for line in axes.lines}
    assert "−467.000" in {text.get_text() for text in axes.texts}  # what the arrow leads to


def test_the_extrapolation_goes_as_far_as_it_says_and_its_band_holds_the_law(law):
    made = draw_extrapolation(law)
    for axes, by in zip(made.axes[:2], ("rank", "length"), strict=True):
        ends = [getattr(cell, by) for cell in law.used]
        reached = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 200]
        assert max(x.max() for x in reached) == pytest.approx(max(ends) * REACH)
        assert min(x.min() for x in reached) == pytest.approx(max(min(ends) / REACH, 1))
        lines = [line for line in axes.lines if len(line.get_xdata()) == 200 and line.is_dashed()]
        assert len(axes.collections) == len(lines) == 3
        for line, band in zip(lines, axes.collections, strict=True):
            corners = band.get_paths()[0].vertices
            at = np.abs(np.log(corners[:, 0] / law.rank_ref if by == "rank" else corners[:, 0] / law.length_ref)) < 0.02
            middle = np.interp(corners[at, 0], line.get_xdata(), line.get_ydata())
            assert corners[at, 1].min() <= middle.mean() <= corners[at, 1].max()
    assert not draw_extrapolation(dataclasses.replace(law, draws=None)).axes[0].collections


def test_rivals_stand_in_the_order_of_aicc_and_the_law_is_marked(law):
    axes = draw_rivals(law).axes[0]
    labels = axes.get_yticklabels()
    expected = sorted(law.rivals.entries, key=lambda entry: entry.delta_aicc)
    assert [label.get_text() for label in labels] == [entry.title for entry in expected]
    marked = [label.get_text() for label in labels if to_hex(label.get_color()) == style.ACCENT]
    assert marked == [law.rivals.entries[0].title]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([entry.delta_aicc for entry in expected])
    untold = tuple(dataclasses.replace(entry, delta_aicc=None, aicc=None) for entry in law.rivals.entries)
    few = dataclasses.replace(law, rivals=dataclasses.replace(law.rivals, entries=untold))
    assert not draw_rivals(few).axes[0].patches


def test_a_form_that_meets_its_cells_exactly_does_not_stretch_the_axis_of_errors(law):
    exact = (*law.rivals.entries[:-1], dataclasses.replace(law.rivals.entries[-1], rmse=2e-16))
    axes = draw_rivals(dataclasses.replace(law, rivals=dataclasses.replace(law.rivals, entries=exact))).axes[1]
    low, high = axes.get_xlim()
    assert high / low < 1e5 and "met exactly" in {text.get_text() for text in axes.texts}


def test_a_law_without_evidence_gets_the_figures_that_need_none(tmp_path):
    frame = simulate(BASE.but(ranks=(1, 2, 4), lengths=(4000, 8000)), 0)
    names = {path.stem for path in draw_all(frame, fit_law(frame, bootstrap=0), tmp_path)}
    assert names == {"law", "predicted_vs_measured", "collapse", "residuals", "extrapolation", "heat_final_loss"}


def luminance(text):
    share = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(light @ (0.2126, 0.7152, 0.0722))


def test_colours_on_a_dark_page_can_be_seen_and_keep_their_order():
    paper = luminance("#1b1f24")
    for colours in (style.rank_colours(range(16)), style.length_colours(range(16))):
        twins = [luminance(colour.dark(to_hex(value))) for value in colours.values()]
        assert all((value + 0.05) / (paper + 0.05) >= 4.5 for value in twins)  # WCAG's contrast for text
        assert twins[-1] > twins[0]
    assert luminance(colour.dark("#8c959f")) > luminance(colour.dark("#f6f8fa"))  # greys are turned over
