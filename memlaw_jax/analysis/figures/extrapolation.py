"""What the law promises beyond the cells that were measured, and how sure it is of that."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law

REACH = 4.0  # how far beyond the measured ranks and lengths, as a factor
_LINES = 3


def draw_extrapolation(law: Law) -> Figure:
    """ΔL against rank at a few lengths, and against length at a few ranks, drawn four times beyond the used cells.

    Bands are pointwise 95 % intervals of the bootstrap: what the cells leave open if the law's form is right; they know
    nothing of another form. Above the dotted line (final loss ln 2) text is recalled and the law no longer holds; the
    grey line is all that can be learned.
    """
    cells = law.cells
    ceiling = float(np.mean([cell.loss_initial for cell in cells]))
    lowest = [0.0, *(cell.delta for cell in cells)]
    with style.look():
        made = style.figure(12.4, 5.2)
        axes = made.subplots(1, 2, sharey=True)
        for panel, by in zip(axes, ("rank", "length"), strict=True):
            lowest.append(_panel(made, panel, law, by, ceiling - SATURATED))
        low, top = max(min(lowest), -0.25 * ceiling), max([ceiling, *(cell.delta for cell in cells)])
        for panel in axes:
            panel.axhline(ceiling, color=style.MUTED, lw=1.2, zorder=1)
            panel.axhline(ceiling - SATURATED, color=style.MUTED, lw=1.2, ls=(0, (1, 1.6)), zorder=1)
            panel.set_ylim(low - 0.04 * (top - low), top + 0.14 * (top - low))
            style.grid(panel)
        axes[0].set_ylabel("ΔL = initial − final loss  (nats per answer token)")
        axes[0].set_title("against rank, at a few lengths")
        axes[1].set_title("against length, at a few ranks")
        made.suptitle(f"Beyond what was measured:   {style.law_in_mathtext(law)}", x=0.012, ha="left", fontsize=13)
        about = "about " if np.ptp([cell.loss_initial for cell in cells]) > 0.02 * ceiling else ""
        _legend(made, f"ceiling: initial loss, {about}{ceiling:.3g} nats", law)
    return made


def _panel(made: Figure, panel: Axes, law: Law, by: str, saturated: float) -> float:
    """Lines, bands and cells of one panel; returns the lowest value drawn."""
    other = "length" if by == "rank" else "rank"
    ends = [getattr(cell, by) for cell in law.used]
    first, last = min(ends), max(ends)
    fine = np.geomspace(max(first / REACH, 1.0), last * REACH, 200)
    values = _few(sorted({getattr(cell, other) for cell in law.used}))
    every = sorted({getattr(cell, other) for cell in law.cells})
    colours = (style.length_colours if other == "length" else style.rank_colours)(every)
    panel.axvspan(first, last, color=style.SHADE, lw=0, zorder=0)
    inside = (fine >= first) & (fine <= last)
    least = np.inf
    for value in values:
        colour = colours[value]
        rank, length = (fine, np.full_like(fine, value)) if by == "rank" else (np.full_like(fine, value), fine)
        line = law.predict(rank, length)
        panel.plot(fine, line, color=colour, lw=1.2, ls=(0, (3, 2)), zorder=3)
        panel.plot(fine, np.where(inside & (line < saturated), line, np.nan), color=colour, lw=1.8, zorder=4)
        least = min(least, float(line.min()))
        if law.draws:
            low, high = _band(law, rank, length)
            panel.fill_between(fine, low, high, color=colour, alpha=0.2, lw=0, zorder=2)
            least = min(least, float(low.min()))
        for cell in law.cells:
            if getattr(cell, other) == value:
                panel.plot(getattr(cell, by), cell.delta, "o", ms=6, mfc=colour if cell.used else "white",
                           mec="white" if cell.used else colour, mew=0.6 if cell.used else 1.1, zorder=5)  # fmt: skip
    panel.set_xscale("log")
    panel.set_xlim(fine[0] / 1.06, fine[-1] * 1.06)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_locator(FixedLocator(_ticks(fine[0], fine[-1])))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.short(round(value))))
    panel.set_xlabel("LoRA rank r" if by == "rank" else "length ℓ (answer tokens)")
    style.key(made, panel, {value: colours[value] for value in values}, "length ℓ" if by == "rank" else "rank r",
              falling=by == "rank")  # fmt: skip
    return least


def _few(values: list[int]) -> list[int]:
    """The first, the last and those evenly between."""
    at = np.unique(np.linspace(0, len(values) - 1, min(_LINES, len(values))).round().astype(int))
    return [values[place] for place in at]


def _band(law: Law, rank: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    c_ref, alpha, beta, b = (law.draw(name)[:, None] for name in ("c_ref", "alpha", "beta", "b"))
    u, v = np.log(rank / law.rank_ref), np.log(length / law.length_ref)
    low, high = np.percentile(c_ref * np.exp(alpha * u - beta * v) + b, [2.5, 97.5], axis=0)
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Powers of two for ranks and short texts, 1, 2, 5, 10, … for long ones; ten at most."""
    nice = [2**n for n in range(11)] if high < 4000 else [k * 10**n for n in range(10) for k in (1, 2, 5)]
    seen = [float(tick) for tick in nice if low <= tick <= high]
    return seen[:: max(1, -(-len(seen) // 10))]


def _legend(made: Figure, ceiling: str, law: Law) -> None:
    def line(label: str, **kind: Any) -> Line2D:
        return Line2D([], [], color=style.MUTED, label=label, **kind)

    entries: list[Line2D | Patch] = [
        line("mean of a cell", ls="", marker="o", ms=6, mec="white"),
        *([line("left out of the fit", ls="", marker="o", ms=6, mfc="white", mew=1.2)] if law.dropped else []),
        line("law among the used cells", lw=1.8),
        line("law beyond", lw=1.2, ls=(0, (3, 2))),
        *([Patch(facecolor=style.MUTED, alpha=0.25, lw=0, label="95 % of the bootstrap")] if law.draws else []),
        Patch(facecolor=style.SHADE, edgecolor="#d0d7de", lw=0.6, label="range of the used cells"),
        line(ceiling, lw=1.2),
        line("final loss ln 2: saturated above", lw=1.2, ls=(0, (1, 1.6))),
    ]
    made.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=8.8, columnspacing=1.8)
