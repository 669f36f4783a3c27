"""Does one number decide? ΔL of every cell against x = r^α ℓ^(−β), in which the law is the straight line C x + b."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law

_DEEPEST = 0.5  # how far below zero the axis may go, in ceilings


def draw_collapse(law: Law) -> Figure:
    """ΔL (cell means, nats; a colour a rank) against x, twice: on an even axis, where the law is straight and b its
    intercept, and on a logarithmic one, where the small cells are seen apart.

    Ranks and lengths that the law orders wrongly do not fall on one line. Cells left out are hollow; the band lies
    between the final losses ln 2 and 0.
    """
    cells = law.cells
    rank, length = (np.array([getattr(cell, name) for cell in cells], float) for name in ("rank", "length"))
    delta = np.array([cell.delta for cell in cells])
    x = rank**law.alpha * length**-law.beta
    used = np.array([cell.used for cell in cells])
    ceiling = float(np.mean([cell.loss_initial for cell in cells]))
    colours = style.rank_colours(sorted({cell.rank for cell in cells}))
    # An even axis that reached the last of the saturated cells would push all others into a corner.
    end = min(float(x.max()), 1.6 * max(float(x[used].max()), (ceiling - law.b) / law.C))
    top = max(ceiling, float(delta.max()))
    low = max(min(0.0, float(delta.min()), law.interval("b")[0] if law.draws else law.b), -_DEEPEST * top)
    start = 0.0
    if law.b <= low:  # an offset far below everything measured stays out of view
        start = max(0.0, min((low - law.b) / law.C, 1.04 * x.min() - 0.04 * end))
    pad = (x.max() / x.min()) ** 0.06
    beyond = int((x > 1.03 * end).sum())
    with style.look():
        made = style.figure(12.4, 5.2)
        even, spread = made.subplots(1, 2, sharey=True)
        line = {even: np.linspace(start, 1.03 * end, 2), spread: np.geomspace(x.min() / pad, x.max() * pad, 300)}
        for axes, at in line.items():
            axes.axhspan(ceiling - SATURATED, ceiling, color=style.SHADE, zorder=0, lw=0)
            axes.axhline(ceiling, color=style.MUTED, lw=1.0, zorder=1)
            axes.plot(at, law.C * at + law.b, color=style.INK, lw=1.3, zorder=2)
            _dots(axes, x, delta, used, [colours[cell.rank] for cell in cells])
            axes.set_xlim(at[0], at[-1])
            style.grid(axes)
        even.set_ylim(low - 0.03 * (top - low), top + 0.12 * (top - low))
        _decades(spread, x.max() / x.min())
        if not start:
            _offset(even, law)
        _level(even, ceiling)
        even.set_ylabel("ΔL = initial − final loss  (nats per answer token)")
        even.set_title("even axis: the law is the straight line C x + b")
        spread.set_title("logarithmic axis: the same line, small x spread out")
        for axes in line:
            axes.set_xlabel(r"$x = r^{\,\alpha}\,\ell^{\,-\beta}$")
        made.suptitle(
            rf"Collapse onto one line:   $x = r^{{{law.alpha:.3f}}}\,\ell^{{\,-{law.beta:.3f}}}$", x=0.012, ha="left",
            fontsize=13,
        )  # fmt: skip
        style.key(made, spread, colours, "rank r")
        _legend(made, dropped=not used.all(), beyond=beyond)
    return made


def _dots(axes: Axes, x: np.ndarray, delta: np.ndarray, used: np.ndarray, colours: list[Any]) -> None:
    for at, value, full, colour in zip(x, delta, used, colours, strict=True):
        axes.plot(
            at,
            value,
            "o",
            ms=6,
            mfc=colour if full else "white",
            mec="white" if full else colour,
            mew=0.6 if full else 1.1,
            zorder=4 if full else 3,
        )


def _decades(axes: Axes, wide: float) -> None:
    """A logarithmic axis with plain numbers, the denser the shorter it is."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(
        MaxNLocator(5) if wide < 4 else LogLocator(subs=[1.0, 2.0, 5.0] if wide < 300 else [1.0], numticks=20)
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _offset(axes: Axes, law: Law) -> None:
    """The intercept b, with its 95 % interval where there is one."""
    look: Any = {"color": style.ACCENT, "clip_on": False, "zorder": 6}
    if law.draws:
        ends = np.clip(law.interval("b"), *axes.get_ylim())
        axes.plot([0, 0], ends, lw=3, solid_capstyle="butt", **look)
    axes.plot(0, law.b, "D", ms=6, mec="white", mew=0.6, **look)
    axes.annotate(
        f"b = {law.b:.2f}",
        (0, law.b),
        (9, -4),
        textcoords="offset points",
        va="top",
        color=style.ACCENT,
        fontsize=9.5,
        zorder=6,
    )


def _level(axes: Axes, ceiling: float) -> None:
    axes.annotate(
        f"ceiling: initial loss, {ceiling:.3g} nats",
        (0.015, ceiling),
        (0, 4),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="bottom",
        fontsize=8.5,
        color=style.MUTED,
    )


def _legend(made: Figure, *, dropped: bool, beyond: int) -> None:
    def dot(label: str, **kind: Any) -> Line2D:
        return Line2D([], [], color=style.MUTED, ls="", marker="o", ms=6, label=label, **kind)

    entries: list[Line2D | Patch] = [
        dot("mean of a cell", mec="white"),
        *([dot("left out of the fit", mfc="white", mew=1.2)] if dropped else []),
        Line2D([], [], color=style.INK, lw=1.3, label="fitted law"),
        Patch(facecolor=style.SHADE, edgecolor="#d0d7de", lw=0.6, label="saturated: final loss below ln 2"),
    ]
    if beyond:
        entries.append(Line2D([], [], ls="", label=f"({beyond} left out beyond the even axis)"))
    made.legend(handles=entries, loc="outside lower center", ncols=5, frameon=False, fontsize=8.8)
