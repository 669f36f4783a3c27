"""What is recalled, against rank: the figure that needs no law, and so no second length."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.figures import style


def draw_recall(frame: pd.DataFrame) -> Figure:
    """Exact match, token accuracy and final loss over rank, one line a length; bars span a cell's runs.

    `frame` needs the columns `exact_match` (share of samples reproduced verbatim), `token_accuracy` (teacher-forced),
    and `loss_final` (nats per answer token).
    """
    lengths = sorted({int(length) for length in frame["length"]})
    ranks = sorted({int(rank) for rank in frame["rank"]})
    colours = style.length_colours(lengths)
    with style.look():
        made = style.figure(11.4, 3.9)
        panels = made.subplots(1, 3)
        for axes, column in zip(panels, ("exact_match", "token_accuracy", "loss_final"), strict=True):
            for length in lengths:
                _line(axes, frame[frame["length"] == length].groupby("rank")[column], colours[length])
            style.log_ticks(axes, "x", ranks)
            style.grid(axes)
            axes.set_xlabel("LoRA rank r")
        for axes, title in zip(panels, ("Exact match", "Token accuracy", "Final loss"), strict=True):
            axes.set_title(title)
        for axes, what in zip(panels, ("samples recalled word for word", "arg-max right"), strict=False):
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylabel(what)
        panels[2].set_ylim(0, max(panels[2].get_ylim()[1], 1.1 * SATURATED))  # ln 2 is always in view
        panels[2].set_ylabel("nats per answer token")
        panels[2].axhline(SATURATED, color=style.ACCENT, lw=1.0, ls="--")
        panels[2].annotate("ln 2", (1.0, SATURATED), (-4, 3), xycoords=panels[2].get_yaxis_transform(),
                           textcoords="offset points", ha="right", fontsize=8.5, color=style.ACCENT)  # fmt: skip
        if len(lengths) > 1:
            style.key(made, panels[2], colours, "length ℓ", falling=True)
        else:
            made.suptitle(f"{lengths[0]} answer tokens", x=0.01, ha="left", fontsize=10, color=style.MUTED)
    return made


def _line(axes: Axes, groups: "pd.api.typing.SeriesGroupBy", colour: object) -> None:
    mean, low, high = groups.mean(), groups.min(), groups.max()
    axes.errorbar(mean.index, mean, yerr=[mean - low, high - mean], color=colour, marker="o", ms=5.5, mec="white",
                  mew=0.6, lw=1.5, elinewidth=1, capsize=0)  # fmt: skip
