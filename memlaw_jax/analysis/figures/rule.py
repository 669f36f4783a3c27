"""Memory beside generalisation, against rank: what is recalled of a rule's training pairs and of unseen ones."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from memlaw_jax.analysis.figures import style

PANELS = (("memory", "Memory: training pairs"), ("generalisation", "Generalisation: unseen pairs"))
NUDGE = 1.025  # methods stand a little apart on the rank axis, so that equal points show


def draw_rule(frame: pd.DataFrame) -> Figure:
    """Share of pairs whose value is recalled word for word, a line a method; small dots are seeds.

    `frame` has one row a run with the columns `adapter`, `rank`, `method`, `memory` and `generalisation`. Each adapter
    has a row of panels.
    """
    methods, adapters = list(frame["method"].unique()), list(frame["adapter"].unique())
    colours = {
        method: mpl.colormaps["viridis"](0.1 + 0.75 * index / max(1, len(methods) - 1))
        for index, method in enumerate(methods)
    }
    with style.look():
        made = style.figure(9.2, 3.9 * len(adapters))
        for adapter, panels in zip(adapters, made.subplots(len(adapters), 2, squeeze=False), strict=True):
            mine = frame[frame["adapter"] == adapter]
            for axes, (column, title) in zip(panels, PANELS, strict=True):
                _panel(axes, mine, column, colours)
                axes.set_title(title if len(adapters) == 1 else f"{title}, {style.plain(adapter.replace('_', ' '))}")
            panels[0].set_ylim(-0.03, 1.03)
            panels[0].set_ylabel("pairs recalled word for word")
            panels[1].set_ylim(0, max(0.06, 1.15 * float(mine["generalisation"].max())))
            panels[0].legend(frameon=False, loc="lower right")
    return made


def _panel(axes: Axes, frame: pd.DataFrame, column: str, colours: dict[str, Any]) -> None:
    for index, (method, colour) in enumerate(colours.items()):
        mine = frame[frame["method"] == method]
        if mine.empty:
            continue
        shift = NUDGE ** (index - (len(colours) - 1) / 2)
        mean = mine.groupby("rank")[column].mean()
        axes.plot(mine["rank"] * shift, mine[column], "o", ms=3, color=colour, alpha=0.55, mew=0)
        axes.plot(mean.index * shift, mean, marker="o", ms=6, mec="white", color=colour, lw=1.6, label=method)
    style.log_ticks(axes, "x", sorted({int(rank) for rank in frame["rank"]}))
    style.grid(axes)
    axes.set_xlabel("LoRA rank r")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
