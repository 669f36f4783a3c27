"""How training went, a line a method and a panel a rank: convergence curves and exact-match curves (PAPER.md)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.figures.methods import method_looks
from memlaw_jax.analysis.figures.positions import panel_each
from memlaw_jax.errors import UserError

PANELS = 6
_WORDS = {
    "loss": ("Convergence", "nats per answer token"),
    "exact_match": ("Exact match while training", "samples all right"),
    "token_accuracy": ("Token accuracy while training", "arg-max right"),
    "share_above_half": ("Tokens above ½ while training", "tokens with p above ½"),
    "active_tokens": ("Tokens with a weight while training", "trained tokens with a weight"),
}
_DASHES = ("-", (0, (5, 1.8)), (0, (1.6, 1.1)), (0, (6, 1.6, 1.4, 1.6)))  # so that equal lines show
_DECADES = 1e4  # from the largest loss shown down to the smallest as a factor


def draw_training_curves(curves: pd.DataFrame, column: str = "loss") -> Figure:
    """One column of `read_curves` against the optimiser's step: means over seeds in bold, each seed faint.

    All that is given must be of one task and length. At most six ranks are shown, evenly chosen with the ends; the loss
    is on a logarithmic axis with a line at ln 2, the other columns in per cent. Where seeds have points at different
    steps they are joined by straight lines first; a run that ended early counts on with its last point. Exact match of
    mini-batches is a running mean over a tenth of the steps: each batch holds other samples.

    Raises `UserError` for another column, and for runs of several tasks or lengths, and for several of one method,
    rank and seed.
    """
    if column not in _WORDS:
        raise UserError(f"there is no training curve of {column}; choose one of {', '.join(_WORDS)}")
    for name in ("task", "length"):
        if len(kinds := sorted(curves[name].unique())) != 1:
            raise UserError(f"one figure shows one {name}, not {', '.join(map(str, kinds))}; choose the rows of one")
    if curves.groupby(["method", "rank", "seed"])["cell_id"].nunique().max() > 1:
        raise UserError("there are several runs of one method, rank and seed; choose those of one learning rate each")
    ranks = _spread(sorted({int(rank) for rank in curves["rank"]}))
    shown = curves[curves["rank"].isin(ranks)]
    names = list(dict.fromkeys(shown["method"]))
    colours = [colour for colour, _ in method_looks(names).values()]
    looks: dict[str, Any] = {
        name: {"color": colour, "ls": dash, "lw": 2.4 if dash == "-" else 2.0}
        for name, colour, dash in zip(names, colours, itertools.cycle(_DASHES))
    }
    title, unit = _WORDS[column]
    with style.look():
        made, panels = panel_each(len(ranks), unit, "step", columns=3)
        for axes, rank in zip(panels, ranks, strict=True):
            here = shown[shown["rank"] == rank]
            for name, look in looks.items():
                _line(axes, here[here["method"] == name], column, look)
            axes.set_title(f"rank {rank}", fontsize=10.5, pad=5)
            style.grid(axes)
        (_nats if column == "loss" else _shares)(panels, shown[column])
        seeds = int(shown.groupby(["method", "rank"])["cell_id"].nunique().max())
        made.suptitle(f"{title}: {_of(shown)}", x=0.012, ha="left", fontsize=12.5)
        entries = [Line2D([], [], label=style.plain(name), **look) for name, look in looks.items()]
        if seeds > 1:
            entries.append(Line2D([], [], color=style.MUTED, lw=0.8, alpha=0.6, label="a seed"))
        made.legend(
            handles=entries,
            loc="outside lower center",
            ncols=len(entries) if len(entries) < 5 else 3,
            frameon=False,
            fontsize=9.5,
        )
    return made


def _spread(ranks: list[int]) -> list[int]:
    """At most `PANELS` of them, as evenly as can be."""
    at = np.linspace(0, len(ranks) - 1, min(len(ranks), PANELS))
    return [ranks[int(i)] for i in np.rint(at)]


def _line(axes: Axes, mine: pd.DataFrame, column: str, look: dict[str, Any]) -> None:
    if mine.empty:
        return
    runs = mine.pivot(index="step", columns="cell_id", values=column).interpolate(method="index")
    if runs.shape[1] > 1:
        axes.plot(runs.index, runs, color=look["color"], lw=0.7, alpha=0.35, zorder=3)
    mean = runs.mean(axis=1)
    if column == "exact_match" and not mine[column].isin((0, 1)).all():
        mean = mean.rolling(max(1, len(mean) // 10), center=True, min_periods=1).mean()
    axes.plot(mean.index, mean, zorder=4, **look)


def _nats(panels: list[Axes], losses: pd.Series) -> None:
    high = max(float(losses.max()), SATURATED)
    low = max(min(float(losses[losses > 0].min()), SATURATED), high / _DECADES)
    for i, axes in enumerate(panels):
        style.log_nats(axes, low / 1.25, high * 1.25)
        axes.axhline(SATURATED, color=style.MUTED, lw=1.0, ls=(0, (4, 3)), zorder=2)
        if i == 0:
            axes.annotate("ln 2", (0.0, SATURATED), (4, -3), xycoords=axes.get_yaxis_transform(), va="top",
                          textcoords="offset points", fontsize=8.5, color=style.MUTED)  # fmt: skip


def _shares(panels: list[Axes], _: pd.Series) -> None:
    panels[0].set_ylim(-0.03, 1.03)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))


def _of(curves: pd.DataFrame) -> str:
    return f"{str(curves['task'].iloc[0]).replace('_', ' ')}, {curves['length'].iloc[0]} answer tokens"
