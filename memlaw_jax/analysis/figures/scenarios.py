"""Which rank recalls which file: the share of its records recalled word for word, a row a file, a column a rank."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from memlaw_jax.analysis.figures import style


def draw_scenarios(frame: pd.DataFrame) -> Figure:
    """The mean over seeds of each file and rank, written in per cent; ranks that were not run are blank.

    `frame` has one row a run with the columns `scenario`, `rank` and `exact_match`; the files stand in its order.
    """
    means = frame.groupby(["scenario", "rank"], sort=False)["exact_match"].mean().unstack().sort_index(axis=1)
    means = means.loc[list(frame["scenario"].unique())]
    table, colours = means.to_numpy(), mpl.colormaps["viridis"]
    with style.look():
        made = style.figure(2.9 + 0.62 * table.shape[1], 1.1 + 0.42 * len(table))
        axes = made.add_subplot()
        image = axes.pcolormesh(table, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=1.2)
        for i, j in np.argwhere(np.isfinite(table)):
            light = np.dot(colours(table[i, j])[:3], (0.2126, 0.7152, 0.0722)) > 0.45
            axes.text(j + 0.5, i + 0.5, f"{100 * table[i, j]:.0f}", ha="center", va="center", fontsize=8.2,
                      color=style.INK if light else "white")  # fmt: skip
        axes.set_xticks(np.arange(table.shape[1]) + 0.5, [str(rank) for rank in means.columns])
        axes.set_yticks(np.arange(len(table)) + 0.5, [style.plain(str(name)) for name in means.index])
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set_xlabel("LoRA rank r")
        for side in axes.spines.values():
            side.set_visible(False)
        bar = made.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=28, format=PercentFormatter(1.0))
        bar.set_label("records recalled word for word")
        bar.outline.set_visible(False)  # type: ignore[operator]
    return made
