"""The law among its rivals: how well each form explains the cells, and how well it foretells cells it has not seen."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law

NONE_LEFT = 10.0  # ΔAICc above which a form has next to no support beside the best
_DECADES = 1e4  # from the largest error shown down to the smallest as a factor
HELD_OUT = {
    "largest_ranks": ("largest ranks", "s", "#4338ca", -0.2),
    "longest_lengths": ("longest lengths", "^", "#0d9488", 0.0),
    "leave_one_rank_out": ("each rank in turn", "D", "#be185d", 0.2),
}


def draw_rivals(law: Law) -> Figure:
    """Left: ΔAICc over the best form, none for the best. Right: RMSE in nats on the fitted cells and on cells held out.

    Forms stand in the order of AICc, the law in colour. ΔAICc is even up to 10 and logarithmic beyond. Needs a law with
    rivals.
    """
    assert law.rivals is not None
    entries = sorted(law.rivals.entries, key=lambda rival: (rival.delta_aicc is None, rival.delta_aicc or 0.0))
    own = law.rivals.entries[0].name
    with style.look():
        made = style.figure(12.4, 1.9 + 0.44 * len(entries))
        support, heldout = made.subplots(1, 2, sharey=True, width_ratios=(1, 1.15))
        _support(support, entries, own)
        _held_out(heldout, entries)
        support.set_yticks(range(len(entries)), [entry.title for entry in entries])
        for label, entry in zip(support.get_yticklabels(), entries, strict=True):
            label.set_color(style.ACCENT if entry.name == own else style.INK)
            label.set_fontweight("bold" if entry.name == own else "normal")
        support.set_ylim(len(entries) - 0.4, -0.6)
        made.suptitle("The law among its rivals", x=0.012, ha="left", fontsize=13)
        _legend(made, entries)
    return made


def _support(axes: Axes, entries: list[Any], own: str) -> None:
    told = [entry.delta_aicc for entry in entries if entry.delta_aicc is not None]
    end = max([*told, NONE_LEFT])
    axes.set_xscale("symlog", linthresh=NONE_LEFT, linscale=1.0)
    for place, entry in enumerate(entries):
        value = entry.delta_aicc
        colour = style.ACCENT if entry.name == own else style.MUTED
        if value is not None:
            axes.barh(place, value, height=0.56, color=colour, alpha=1.0 if entry.name == own else 0.55, zorder=3)
        said = ("no AICc" if value is None else _number(value)) + ("" if entry.converged else ", not converged")
        axes.annotate(said, (value or 0.0, place), (5, 0), textcoords="offset points", va="center", zorder=4,
                      fontsize=8.8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    axes.axvline(NONE_LEFT, color=style.MUTED, lw=1.1, ls=(0, (4, 3)), zorder=2)
    axes.set_xlim(0, 2.6 * end if end > NONE_LEFT else 1.3 * end)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in (0, 5, 10, 30, 100, 300, 1000, 3000) if tick <= end]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True, axis="x", color=style.GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("ΔAICc on cell means (0 is the best)")
    axes.set_title("support by the fitted cells")


def _number(delta: float) -> str:
    return "best" if delta < 0.05 else f"{delta:.1f}" if delta < 99.5 else f"{delta:.0f}"


def _held_out(axes: Axes, entries: list[Any]) -> None:
    errors = [[entry.rmse, *(entry.heldout.get(key) for key in HELD_OUT)] for entry in entries]
    # A form with as many parameters as cells meets them to rounding, which would stretch the axis over many decades.
    least = max((error for row in errors for error in row if error), default=1.0) / _DECADES
    shown = []
    for place, entry in enumerate(entries):
        row = [(entry.rmse, "|", style.INK, 0.0)]
        row += [(entry.heldout.get(key), marker, colour, shift) for key, (_, marker, colour, shift) in HELD_OUT.items()]
        there = [max(value, least) for value, *_ in row if value]
        if entry.rmse < least:
            axes.annotate("met exactly", (least, place), (6, 0), textcoords="offset points", va="center", zorder=5,
                          fontsize=8, color=style.MUTED)  # fmt: skip
            there = [least, *there]
        shown += there
        if there:
            axes.hlines(place, min(there), max(there), color=style.GRID, lw=2.5, zorder=2)
        for value, marker, colour, shift in row:  # apart, for two may be equal
            if value:
                fitted = marker == "|"
                axes.plot(max(value, least), place + shift, marker, ms=11 if fitted else 6.5, color=colour,
                          mec=colour if fitted else "white", mew=1.8 if fitted else 0.6, zorder=4)  # fmt: skip
    axes.set_xscale("log")
    if shown:
        axes.set_xlim(min(shown) / 1.3, max(shown) * 1.3)
        wide = max(shown) / min(shown)
        subs = [1.0] if wide > 3000 else [1.0, 3.0] if wide > 100 else [1.0, 2.0, 5.0]
        subs = subs if wide > 6 else [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.grid(True, axis="x", color=style.GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("RMSE  (nats per answer token)")
    axes.set_title("error on cells that the fit has not seen")


def _legend(made: Figure, entries: list[Any]) -> None:
    def dot(label: str, marker: str, colour: str, **kind: Any) -> Line2D:
        return Line2D([], [], ls="", marker=marker, color=colour, label=label, **kind)

    handles = [
        Line2D([], [], color=style.MUTED, lw=1.1, ls=(0, (4, 3)), label="ΔAICc 10: next to no support beyond"),
        dot("fitted cells", "|", style.INK, ms=11, mew=1.8),
        *[
            dot(f"held out: {words}", marker, colour, ms=6.5, mec="white", mew=0.6)
            for key, (words, marker, colour, _) in HELD_OUT.items()
            if any(entry.heldout.get(key) is not None for entry in entries)
        ],
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8.8)
