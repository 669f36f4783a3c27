"""The law at each semantic density of the text, and what its exponents are there (PAPER.md, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.figures.positions import panel_each
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.pooled import PooledLaw

_BEYOND = 1.6  # a cell left out is shown up to this factor beyond the used ones


def draw_density(laws: Mapping[str, Law]) -> Figure:
    """Measured ΔL over predicted ΔL (cell means, nats), a panel a law on the same logarithmic axes, a colour a rank.

    Used cells are filled, those left out hollow; R² and MAPE are the law's, taken on the used cells. Cells that a
    logarithmic axis cannot hold (ΔL at or below 0), and hollow ones predicted far beyond the rest, are only counted.
    """
    used = np.array([(cell.predicted, cell.delta) for law in laws.values() for cell in law.used])
    low, high = used[used > 0].min() / 1.25, used.max() * _BEYOND
    ranks = sorted({cell.rank for law in laws.values() for cell in law.cells})
    colours = style.rank_colours(ranks)
    hidden = 0
    with style.look():
        made, panels = panel_each(len(laws), "measured ΔL (nats)", "predicted ΔL (nats)")
        for axes, (name, law) in zip(panels, laws.items(), strict=True):
            hidden += _panel(axes, law, colours, low, high)
            axes.set_title(style.plain(name), fontsize=10.5, pad=5)
            axes.annotate(f"$R^2$ = {law.r2:.4f}\nMAPE {100 * law.mape:.1f} %", (0.96, 0.05), va="bottom", ha="right",
                          xycoords="axes fraction", fontsize=9, linespacing=1.4)  # fmt: skip
        style.key(made, panels, colours, "rank r")
        made.suptitle("Predicted against measured, by semantic density", x=0.012, ha="left", fontsize=12.5)
        _legend(made, any(law.dropped for law in laws.values()), hidden)
    return made


def _panel(axes: Axes, law: Law, colours: dict[int, Any], low: float, high: float) -> int:
    axes.plot([low, high], [low, high], color=style.MUTED, lw=1.1, zorder=2)
    outside = 0
    for cell in law.cells:
        if not (low <= cell.predicted <= high and low <= cell.delta <= high):
            outside += 1
            continue
        colour = colours[cell.rank]
        axes.plot(cell.predicted, cell.delta, "o", ms=5, mfc=colour if cell.used else "white", zorder=3 + cell.used,
                  mec="white" if cell.used else colour, mew=0.6 if cell.used else 1.1)  # fmt: skip
    style.log_nats(axes, low, high)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(axes.yaxis.get_major_locator())
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    axes.xaxis.set_minor_locator(axes.yaxis.get_minor_locator())
    style.grid(axes)
    return outside


def _legend(made: Figure, dropped: bool, hidden: int) -> None:
    dot: dict[str, Any] = {"color": style.MUTED, "ls": "", "marker": "o"}
    entries = [Line2D([], [], ms=6, mec="white", label="mean of a cell", **dot)]
    if dropped:
        entries.append(Line2D([], [], ms=6, mfc="white", mew=1.2, label="left out of the fit", **dot))
    if hidden:
        entries.append(Line2D([], [], ls="", label=f"({hidden} beyond the axes not shown)"))
    made.legend(handles=entries, loc="outside lower center", ncols=3, frameon=False, fontsize=8.8)


def draw_exponents(laws: Mapping[str, Law], combined: PooledLaw | None = None) -> Figure:
    """α and β of each law, a row a law in the order given and one for all `combined`.

    Bars are 95 % intervals, where a law has bootstrap draws.
    """
    rows: list[tuple[str, Any, Any]] = [
        (style.plain(name), law, law.interval if law.draws else None) for name, law in laws.items()
    ]
    if combined is not None:
        rows.append(("combined", combined, combined.intervals.__getitem__ if combined.intervals else None))
    with style.look():
        made = style.figure(8.4, 1.3 + 0.36 * len(rows))
        panels = made.subplots(1, 2, sharey=True)
        for axes, name, words in zip(panels, ("alpha", "beta"), ("α, of the rank", "β, of the length"), strict=True):
            for row, (_, law, interval) in enumerate(rows):
                colour = style.INK if law is combined else style.ACCENT
                axes.plot(getattr(law, name), row, "o", ms=5.5, color=colour, mew=0, zorder=4)
                if interval:
                    axes.plot(interval(name), (row, row), color=colour, lw=1.2, marker="|", ms=9, zorder=3)
            axes.set_title(f"exponent {words}")
            axes.grid(True, axis="x", color=style.GRID, linewidth=0.8)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(rows)), [name for name, *_ in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        drawn = " with 95 % intervals" if any(interval for *_, interval in rows) else ""
        made.supxlabel(f"estimates{drawn}", fontsize=9.5, color=style.MUTED)
    return made
