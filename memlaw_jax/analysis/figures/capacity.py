"""Capacity: bits held against trainable parameters, and the longest text recalled, beside what the literature holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from memlaw_jax.analysis.capacity.capacity import ALLEN_ZHU, MORRIS, Capacity
from memlaw_jax.analysis.figures import style

_Y = {"stored": "bits stored", "heldout": "excess bits over held-out items", "gain": "information gain, bits"}
_RULE = ("#0369a1", (0, (6, 2, 1, 2)))
_LEVELS = (MORRIS, ALLEN_ZHU, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # bits per parameter


def draw_capacity(found: Capacity) -> Figure:
    """Left: bits of each cell, a line a length, and the most at each rank with its 95 % interval (an arrow where it is
    a lower bound), with lines of equal bits per parameter. Right: the longest length recalled, with the interval in
    which recall ends; without `exact_match` the left panel stands alone.

    Both axes are logarithmic, so cells that hold nothing are not drawn. Without `effective_parameters` the rank takes
    their place, and there are no lines of equal bits per parameter.
    """
    size = "effective_parameters" if found.ranks["effective_parameters"].notna().all() else "rank"
    recall = bool(found.ranks["recalled_length"].notna().any())
    lengths = sorted({int(length) for length in found.cells["length"]})
    colours = style.length_colours(lengths)
    with style.look():
        made = style.figure(10.8 if recall else 6.8, 4.9)
        panels = made.subplots(1, 2 if recall else 1, squeeze=False, width_ratios=(1.35, 1) if recall else None)[0]
        _bits(panels[0], found, size, colours)
        if recall:
            _longest(panels[1], found, size)
        ticks = sorted({float(value) for value in found.ranks[size]})
        for axes, apart in zip(panels, (0.085, 0.14), strict=False):
            style.log_ticks(axes, "x", ticks, apart=apart)
            style.grid(axes)
            axes.set_xlabel("LoRA rank r" if size == "rank" else "trainable parameters")
        if size != "rank":
            _per_parameter(panels[0])
        if len(lengths) > 1:
            style.key(made, panels[0], colours, "length ℓ")
        made.suptitle(_title(found), x=0.008, ha="left", fontsize=12.5)
        entries = _entries(found, size, recall)
        made.legend(handles=entries, loc="outside lower center", ncols=4 if recall else 2, frameon=False, fontsize=9)
    return made


def _bits(axes: Axes, found: Capacity, size: str, colours: dict[int, Any]) -> None:
    cells = found.cells[found.cells["bits"] > 0]
    for length, colour in colours.items():
        line = cells[cells["length"] == length]
        axes.plot(line[size], line["bits"], color=colour, marker="o", ms=4, mec="white", mew=0.5, lw=1.2,
                  alpha=0.9, zorder=3)  # fmt: skip
    ranks = found.ranks[found.ranks["capacity_bits"] > 0]
    top, low, high = (ranks[name].to_numpy(float) for name in ("capacity_bits", "capacity_low", "capacity_high"))
    floor = float(cells["bits"].min()) if len(cells) else 1.0
    if cells.empty:
        axes.annotate("no cell holds a bit", (0.5, 0.06), xycoords="axes fraction", ha="center", color=style.MUTED)
    bars = np.nan_to_num(np.stack([top - np.maximum(low, floor / 2), high - top]), nan=0.0)
    axes.errorbar(ranks[size], top, yerr=np.maximum(bars, 0), fmt="none", ecolor=style.INK, elinewidth=1.3, zorder=5)
    full = ~ranks["lower_bound"].to_numpy(bool)
    axes.plot(ranks[size][full], top[full], "D", ms=7.5, mfc="none", mec=style.INK, mew=1.4, zorder=6)
    axes.plot(ranks[size][~full], top[~full], "^", ms=8.5, mfc="none", mec=style.INK, mew=1.4, zorder=6)
    axes.set_yscale("log")
    most = float(top.max(initial=floor))
    params = found.ranks[size].to_numpy(float)
    # The line of 3.6 bits leaves the frame at its right side, where its label stands.
    above = 1.35 * MORRIS * float(params.max()) if size != "rank" else 1.6 * most
    axes.set_ylim(floor / 1.7, max(above, 1.6 * most))
    bottom, top_end = axes.get_ylim()
    subs = [1.0] if top_end / bottom > 300 else [1.0, 2.0, 5.0]
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.short(round(value, 3))))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(_Y[found.measure])
    axes.set_title("Bits held")


def _per_parameter(axes: Axes) -> None:
    """Lines of equal bits per parameter, named outside the frame at their right ends."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x = np.array([left, right])
    span, last = np.log(top / bottom), np.inf
    axes.annotate("bits per parameter", (1, 1), (0, 12), xycoords="axes fraction", textcoords="offset points",
                  ha="center", fontsize=8.5, color=style.MUTED)  # fmt: skip
    for level in _LEVELS:
        end = level * right
        known = level in (MORRIS, ALLEN_ZHU)
        if not bottom < end < top:
            continue
        axes.plot(x, level * x, color=style.ACCENT if known else "#c9ced4", lw=1.3 if known else 0.8,
                  ls="-" if level == ALLEN_ZHU else (0, (5, 3)) if known else ":", zorder=2, scalex=False,
                  scaley=False)  # fmt: skip
        if np.log(last / end) > 0.045 * span:
            axes.annotate(f"{level:g}", (right, end), (4, 0), textcoords="offset points", va="center", fontsize=8.5,
                          color=style.ACCENT if known else style.MUTED, annotation_clip=False)  # fmt: skip
            last = end


def _longest(axes: Axes, found: Capacity, size: str) -> None:
    ranks = found.ranks[found.ranks["recalled_length"].notna()]
    tried = sorted({int(length) for length in found.cells["length"]})
    bottom, top = tried[0] / 1.9, tried[-1] * 1.9
    for row in ranks.to_dict("records"):
        x, low, high = row[size], max(row["recalled_low"], bottom), min(row["recalled_high"], top)
        axes.plot([x, x], [low, high], color=style.INK, lw=5, alpha=0.16, solid_capstyle="butt", zorder=2)
        if row["recalled_high"] > top:
            axes.plot([x], [top / 1.12], "^", ms=6, color=style.MUTED, mew=0, zorder=3)
        if row["recalled_length"]:
            axes.plot([x], [row["recalled_length"]], "o", ms=7, color=style.INK, mec="white", mew=0.8, zorder=4)
        else:
            axes.plot([x], [tried[0] / 1.45], "x", ms=6, color=style.MUTED, mew=1.5, zorder=4)
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    axes.yaxis.set_major_locator(FixedLocator(_thinned(tried, 0.05 * np.log(top / bottom))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.short(round(value))))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("answer tokens ℓ")
    axes.set_title("Longest recalled word for word" if found.threshold == 1 else
                   f"Longest at exact match ≥ {found.threshold:g}")  # fmt: skip
    if _rule_shown(found, size):
        x = np.array([ranks[size].min() / 2, ranks[size].max() * 2])
        axes.plot(x, x, color=_RULE[0], lw=1.3, ls=_RULE[1], zorder=1, scalex=False, scaley=False)


def _rule_shown(found: Capacity, size: str) -> bool:
    """Whether any adapter has not many more parameters than the longest text has tokens."""
    return size != "rank" and bool(found.ranks[size].min() < found.cells["length"].max())


def _thinned(values: list[int], apart: float) -> list[int]:
    """Ticks at the lengths tried, without those that would run into another; `apart` is a difference of logarithms."""
    shown = values[:1]
    for value in values[1:]:
        if np.log(value / shown[-1]) > apart:
            shown.append(value)
    return shown


def _entries(found: Capacity, size: str, recall: bool) -> list[Any]:
    def mark(marker: str, label: str, **more: Any) -> Line2D:
        return Line2D([], [], **({"ls": "", "marker": marker, "color": style.INK, "label": label} | more))

    bars = ", 95 % interval" if found.ranks["capacity_low"].notna().any() else ""
    bounds = found.ranks["lower_bound"]
    entries = [] if bounds.all() else [mark("D", f"most at a rank{bars}", ms=7, mfc="none", mew=1.4)]
    if bounds.any():
        entries.append(mark("^", f"most at a rank, a lower bound{bars}", ms=8, mfc="none", mew=1.4))
    if size != "rank":
        entries.append(Line2D([], [], color=style.ACCENT, lw=1.3, ls=(0, (5, 3)), label="Morris et al. (2025)"))
        entries.append(Line2D([], [], color=style.ACCENT, lw=1.3, label="Allen-Zhu and Li (2024)"))
    if recall:
        longest = found.ranks["recalled_length"]
        if (longest > 0).any():
            entries.append(mark("o", "longest recalled", ms=7, mec="white"))
        if (longest == 0).any():
            entries.append(mark("x", "nothing recalled", ms=6, color=style.MUTED, mew=1.5))
        entries.append(Line2D([], [], color=style.INK, lw=5, alpha=0.16, solid_capstyle="butt", label="recall ends in"))
        if _rule_shown(found, size):
            entries.append(Line2D([], [], color=_RULE[0], lw=1.3, ls=_RULE[1], label="tokens = parameters"))
    return entries


def _title(found: Capacity) -> str:
    who = " ".join(x for x in (", ".join(found.tasks).replace("_", " "), found.method) if x)
    seen = found.overall.exposures
    often = (
        ""
        if seen is None
        else f", each token seen {seen[0]:.0f}"
        + ("" if seen[1] <= 1.005 * seen[0] else f" to {seen[1]:.0f}")
        + " times"
    )
    return f"Capacity{': ' if who else ''}{who}{often}"
