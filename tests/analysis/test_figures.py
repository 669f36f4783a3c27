"""Figures are written for every grid that a law can be fitted to. (What they look like, eyes must judge.)"""

from __future__ import annotations

import struct
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

from memlaw_jax.analysis import Law, draw_all, fit_and_draw, fit_law
from memlaw_jax.analysis.figures import draw_curves, draw_heat
from memlaw_jax.analysis.figures.heat import METRICS
from memlaw_jax.errors import UserError

from .simulate import BASE, simulate

ALWAYS = {"law", "predicted_vs_measured", "heat_final_loss", "collapse", "residuals", "extrapolation"}
EVIDENCE = {"ellipse", "profiles", "rivals"}


def check(paths, names):
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for path in paths:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG")
            assert min(struct.unpack(">II", data[16:24])) > 300  # pixels: about two inches at 150 dpi
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")


def test_fit_and_draw_writes_everything_and_leaves_matplotlib_alone(tmp_path):
    frame = simulate(BASE, 0).assign(method="sft", exact_match=0.25, token_accuracy=0.5)
    before = dict(mpl.rcParams)
    law, paths, words = fit_and_draw(frame.assign(vocab_size=5), tmp_path / "out", bootstrap=50)
    assert "uniform level ln V = 1.61" in words
    assert dict(mpl.rcParams) == before
    data = ["law.json", "fit_card.json", "capacity.csv", "capacity.json", "capacity.md"]
    assert [path.name for path in paths[:5]] == data
    assert Law.load(paths[0]) == law
    check(paths[5:], ALWAYS | EVIDENCE | {"capacity", "heat_exact_match", "heat_token_accuracy"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)


def test_odd_grids(tmp_path):
    """One seed, missing cells, a diverged cell, a run that got worse, no saturation, an initial loss that varies."""
    frame = simulate(BASE.but(seeds=1, ranks=(1, 2, 4), lengths=(4000, 8000, 12000, 32000)), 0)
    frame = frame[~((frame["rank"] == 4) & (frame["length"] == 8000))].reset_index(drop=True)
    frame["loss_initial"] += np.log10(frame["length"]) / 10
    frame["stopped"] = "budget"
    frame.loc[4, ["stopped", "loss_final"]] = ["diverged", np.nan]
    frame.loc[3, "loss_final"] = frame.loc[3, "loss_initial"] + 0.01
    law = fit_law(frame, bootstrap=0)
    assert law.diverged == 1 and not law.dropped
    check(draw_all(frame, law, tmp_path), ALWAYS)


def test_every_cell_is_drawn_once_in_each_panel_used_filled_and_dropped_hollow():
    frame = simulate(BASE, 1)
    law = fit_law(frame, bootstrap=0)
    for panel in draw_curves(frame, law).axes[:2]:
        dots = [line for line in panel.lines if line.get_marker() == "o"]
        hollow = sum(len(d.get_xdata()) for d in dots if to_hex(d.get_markerfacecolor()) == "#ffffff")
        assert hollow == len(law.dropped)
        assert sum(len(d.get_xdata()) for d in dots) == len(law.cells)


def test_a_heat_map_shows_every_cell_and_marks_what_is_missing():
    frame = simulate(BASE.but(ranks=(1, 2, 4), lengths=(4000, 8000), seeds=1), 0)
    frame = frame.assign(exact_match=[0.0, 0.25, 0.5, 0.125, np.nan, 1.0])
    frame.attrs["diverged"] = ({"rank": 8, "length": 4000},)
    exact_match, final_loss = (
        {text.get_position(): text.get_text() for text in draw_heat(frame, metric).axes[0].texts}
        for metric in (METRICS[1], METRICS[0])
    )
    numbers = {(0.5, 0.5): "0", (1.5, 0.5): "25", (0.5, 1.5): "50", (1.5, 1.5): "12", (1.5, 2.5): "100"}
    assert exact_match == numbers | {(0.5, 3.5): "div"}
    for i, loss in enumerate(frame["loss_final"]):
        assert abs(float(final_loss[i % 2 + 0.5, i // 2 + 0.5]) - loss) < 0.0051  # two decimals are printed


def test_the_same_results_give_the_same_bytes(tmp_path):
    frame = simulate(BASE.but(ranks=(1, 2, 4), lengths=(4000, 8000, 12000), seeds=2), 0)
    law = fit_law(frame, bootstrap=0)
    for first, second in zip(draw_all(frame, law, tmp_path / "a"), draw_all(frame, law, tmp_path / "b"), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_a_mistake_writes_nothing(tmp_path):
    with pytest.raises(UserError):
        fit_and_draw(simulate(BASE, 0), tmp_path / "out", filter="magic")
    assert not (tmp_path / "out").exists()
