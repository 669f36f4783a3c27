"""The probability of every token as a grid, told apart at ½, and where decoding fails (PAPER.md, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.figures.positions import chosen_length, panel_each
from memlaw_jax.analysis.tokens.tokens import Tokens
from memlaw_jax.errors import UserError

SAMPLES = 50  # at most so many rows a panel
_MARK: dict[str, Any] = {"color": "white", "ls": "", "marker": "D", "ms": 5.5, "mec": style.INK, "mew": 1.2}
_FEW = 20  # rows up to which they stand apart and their marks are large


def draw_probability_grid(tokens: Tokens, method: str, *, length: int | None = None, rank: int | None = None) -> Figure:
    """Teacher-forced p of the true token, a colour at each position: orange below ½ and blue above it.

    One sample a run (long context): a row a rank at one `length`, or, where a `rank` is given, a row a length at that
    rank. Several (PhoneBook): a panel each, whose rows are the first `SAMPLES` samples. The run of the lowest seed is
    shown. A mark stands where greedy decoding fails first: at the first wrong arg-max, up to which it reads what
    teacher forcing reads. `length` None takes the one over which the ranks differ most, as `draw_positions` does.

    Raises `UserError` where no run is of that method, length or rank, and where both a length and a rank are given.
    """
    if length is not None and rank is not None:
        raise UserError(f"length {length} and rank {rank} leave one row; give one of the two")
    table = tokens.of_method(method)
    by, over = ("rank", "length") if rank is None else ("length", "rank")
    if rank is None and length is None and len(table):
        length = chosen_length(table)
    chosen = length if rank is None else rank
    table = table[table[over] == chosen]
    if table.empty:
        raise UserError(f"no run of {method} has {over} {chosen}, so it has no grid; choose one that was run")
    table = table[table["run"].isin(table.groupby(by)["run"].min())]
    values = sorted(int(value) for value in table[by].unique())
    single = table.groupby("run")["sample"].nunique().max() == 1
    what = f"{chosen} answer tokens" if over == "length" else f"rank {chosen}"
    with style.look():
        if single:
            made = style.figure(10.4, 1.6 + 0.34 * len(values))
            panels = [made.add_subplot()]
            failed = _rows(panels[0], [table[table[by] == value] for value in values])
            panels[0].set_yticks(range(len(values)), [style.short(value) for value in values])
            panels[0].set_ylabel("LoRA rank r" if by == "rank" else "length ℓ")
            panels[0].set_xlabel("position in the answer")
        else:
            made, panels = panel_each(len(values), "sample")
            failed = False
            for axes, value in zip(panels, values, strict=True):
                mine = table[(table[by] == value) & (table["sample"] < SAMPLES)]
                failed |= _rows(axes, [row for _, row in mine.groupby("sample")])
                axes.set_title(f"{by} {value}", fontsize=10.5, pad=5)
                axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        _key(made, panels)
        made.suptitle(f"p of each token: {style.plain(method)}, {what}", x=0.012, ha="left", fontsize=12.5)
        if failed:
            mark = Line2D([], [], label="greedy decoding fails here first", **_MARK)
            made.legend(handles=[mark], loc="outside lower center", frameon=False, fontsize=9)
    return made


def _rows(axes: Axes, rows: Sequence[pd.DataFrame]) -> bool:
    """One row of cells each, the first on top; returns whether any has a wrong arg-max."""
    grid = np.full((len(rows), max(int(row["position"].max()) for row in rows) + 1), np.nan)
    first = []
    for i, row in enumerate(rows):
        grid[i, row["position"]] = row["p"]
        wrong = row.loc[~row["right"], "position"]
        first += [(wrong.min(), i)] if len(wrong) else []
    height, width = grid.shape
    edges = np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5  # so that cells are centred on their numbers
    axes.pcolormesh(*edges, grid, cmap=_colours(), vmin=0, vmax=1, rasterized=grid.size > 5000)
    if first:
        size = {} if height <= _FEW else {"ms": 2.2, "mew": 0.6}
        axes.plot(*zip(*first, strict=True), **(_MARK | size), zorder=4, clip_on=False)
    if height <= _FEW:
        axes.hlines(edges[1][1:-1], edges[0][0], edges[0][-1], color="white", lw=1.5, zorder=3)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_xlim(-0.5, width - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    return bool(first)


def _colours() -> Colormap:
    """Dark to pale orange up to ½, pale to dark blue from there: also for colour-blind readers two kinds of cell."""
    below = mpl.colormaps["Oranges"](np.linspace(0.95, 0.2, 128))
    above = mpl.colormaps["Blues"](np.linspace(0.3, 1, 128))
    return ListedColormap(np.concatenate([below, above]))


def _key(made: Figure, panels: list[Axes]) -> None:
    bar = made.colorbar(panels[0].collections[0], ax=panels, fraction=0.045, pad=0.02, aspect=20)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "¼", "½", "¾", "1"])
    bar.set_label("p of the true token")
    bar.outline.set_visible(False)  # type: ignore[operator]
