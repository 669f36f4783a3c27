"""Where samples fail: against their first token below the threshold, and as a histogram of positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.figures.positions import panel_each
from memlaw_jax.analysis.tokens.microscope import Microscope, Order

_MARKERS = ("o", "s", "^", "D", "v", "P")
_CROWD = 120  # dots of one place
_LINEAR = 30  # up to this longest sample positions are drawn one by one, beyond it on a logarithmic axis


def draw_order(found: Microscope) -> Figure:
    """First token at or below the threshold against first failure, a dot a sample, with ρ and n.

    Positions count from 1 here, so that long samples can stand on logarithmic axes; in short ones the dots of one place
    are spread over its square, and where there are too many for that, some stand for all and a number says how many.
    Samples that were recalled all the same stand in a strip of their own on top. A marker a method.
    """
    samples = found.samples[found.samples["first_below"].notna()]
    ranks = sorted(int(rank) for rank in found.samples["rank"].unique())
    methods = list(dict.fromkeys(found.samples["method"].astype(str)))
    colours = style.rank_colours(ranks)
    ends = samples[["first_below", "first_failure"]].to_numpy(float, na_value=np.nan) + 1
    linear = int(found.samples["tokens"].max()) <= _LINEAR
    last = float(found.samples["tokens"].max()) if linear else max(10.0, float(np.nanmax(ends)))
    strip = last + 1.6 if linear else last * 1.6
    x, y = ends[:, 0], np.where(np.isnan(ends[:, 1]), strip, ends[:, 1])
    rng = np.random.default_rng(0)  # the same spread in every drawing
    shown = rng.permutation(len(x))  # no rank on top of the others
    crowds: list[tuple[float, float, int]] = []
    if linear:
        shown, crowds = _thinned(x, y, shown)
    size = float(np.clip(900 / max(len(shown), 1) ** 0.6, 7, 42))
    with style.look():
        made = style.figure(6.9, 6.3)
        axes = made.add_subplot()
        band = (last + 0.9, last + 2.3) if linear else (last * 1.28, last * 2.0)
        axes.axhspan(*band, color=style.SHADE, lw=0, zorder=0)
        axes.plot([1, last], [1, last], color=style.MUTED, lw=1.1, zorder=1)
        rank, method = samples["rank"].to_numpy(), samples["method"].astype(str).to_numpy()
        spread = [rng.uniform(-0.32, 0.32, len(x)) if linear else rng.uniform(-0.05, 0.05, len(x)) for _ in "xy"]
        x, y = (side + move if linear else side * np.exp(move) for side, move in zip((x, y), spread, strict=True))
        for i, name in enumerate(methods):
            mine = shown[method[shown] == name]
            axes.scatter(x[mine], y[mine], s=size, c=[colours[int(r)] for r in rank[mine]], alpha=0.7, lw=0.4,
                         edgecolors="white", marker=_MARKERS[i % len(_MARKERS)], zorder=3,
                         rasterized=len(shown) > 2000)  # fmt: skip
        for at, height, number in crowds:
            axes.text(at, height, f"{number}", ha="center", va="center", fontsize=8, zorder=4,
                      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2})  # fmt: skip
        _axes(axes, last, linear, strip, band[1])
        axes.set_xlabel(f"first token at or below p = {found.threshold:g}  (position, from 1)")
        axes.set_ylabel("first failure of greedy decoding  (position, from 1)")
        axes.set_title("The first token below the threshold and the first failure", fontsize=12.5)
        axes.text(0.985, 0.03, _facts(found.order[0], bool(crowds)), transform=axes.transAxes, ha="right", va="bottom",
                  fontsize=9.5, linespacing=1.5, zorder=5,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 3})  # fmt: skip
        if len(ranks) > 1:
            style.key(made, axes, colours, "rank r")
        entries: list[Any] = [Line2D([], [], color=style.MUTED, lw=1.1, label="fails at that very token")]
        if len(methods) > 1:
            entries += [
                Line2D([], [], color=style.MUTED, ls="", marker=_MARKERS[i % len(_MARKERS)], ms=6, label=name)
                for i, name in enumerate(methods)
            ]
        made.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return made


def _thinned(x: np.ndarray, y: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float, int]]]:
    """At most `_CROWD` dots of each place, the first in `order`; and place and number of those that were too many."""
    table = pd.DataFrame({"x": x[order], "y": y[order]})
    groups = table.groupby(["x", "y"])
    crowded = groups.size().rename("number").reset_index().query("number > @_CROWD")
    crowds = [(row["x"], row["y"], row["number"]) for row in crowded.to_dict("records")]
    return order[(groups.cumcount() < _CROWD).to_numpy()], crowds


def _axes(axes: Axes, last: float, linear: bool, strip: float, top: float) -> None:
    """Equal scales, and the strip of samples without a failure as a tick of its own."""
    if linear:
        axes.set_xlim(0.3, last + 0.7)
        axes.set_ylim(0.3, top)
        ticks = np.unique(np.linspace(1, last, min(int(last), 10)).round()).tolist()
        axes.set_xticks(ticks)
        axes.set_yticks([*ticks, strip], [*(f"{tick:.0f}" for tick in ticks), "none"])
    else:
        style.log_positions(axes, "x", last)
        style.log_positions(axes, "y", last, above=strip)
        axes.set_xlim(0.85, last * 1.25)
        axes.set_ylim(0.85, top)
    style.grid(axes)


def _facts(order: Order, crowded: bool) -> str:
    found = order.correlation
    if found.rho is None:
        first = "Spearman's ρ: one side does not vary"
    else:
        first = f"Spearman's ρ = {found.rho:.3f}"
        if found.low is not None and found.high is not None:
            first += f"  [{found.low:.3f}, {found.high:.3f}]"
    lines = [first, f"n = {order.both} samples with both, {order.same} on the diagonal"]
    lines.append(f"{order.only_failed + order.before} fail without a token below it before")
    return "\n".join([*lines, *([f"numbers: samples of one place, {_CROWD} drawn"] if crowded else [])])


def draw_failures(found: Microscope, method: str) -> Figure:
    """Bars: share of samples that fail first there. Line: share of tokens wrong given the true text. A panel a rank."""
    table = found.failures[found.failures["method"] == method]
    samples = found.samples[found.samples["method"] == method]
    ranks = sorted(int(rank) for rank in samples["rank"].unique())
    colours = style.rank_colours(ranks)
    logarithmic = bool((table["high"] - table["low"] > 1).any())
    with style.look():
        across = "position in the answer" + (", from 1" if logarithmic else "")
        made, panels = panel_each(len(ranks), "share", across)
        for axes, rank in zip(panels, ranks, strict=True):
            _bars(axes, table[table["rank"] == rank], samples[samples["rank"] == rank], colours[rank],
                  logarithmic)  # fmt: skip
            axes.set_title(f"rank {rank}", fontsize=10.5, pad=5)
        made.suptitle(f"Where recall fails: {style.plain(method)}", x=0.012, ha="left", fontsize=12.5)
        entries = [
            Patch(facecolor=style.MUTED, alpha=0.45, lw=0, label="samples that fail first here"),
            Line2D([], [], color=style.INK, lw=1.3, marker="o", ms=3, label="tokens wrong, given the true text"),
        ]
        made.legend(handles=entries, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return made


def _bars(axes: Axes, table: pd.DataFrame, samples: pd.DataFrame, colour: object, logarithmic: bool) -> None:
    low, high = table["low"].to_numpy(), table["high"].to_numpy()
    if logarithmic:
        style.log_positions(axes, "x", float(high.max()))
        axes.set_xlim(0.47, float(high.max()) * 1.1)
        middle = np.sqrt((low + 1.0) * high)  # of the bin's positions, which count from 1
        width = 0.9 * (high - low)
        left = low + 0.5 + 0.05 * (high - low)
    else:
        middle, left, width = low, low - 0.41, np.full(len(low), 0.82)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.bar(left, table["first_failures"] / len(samples), width=width, align="edge", color=colour, alpha=0.55, lw=0,
             zorder=2)  # fmt: skip
    axes.plot(middle, table["wrong"] / table["tokens"], color=style.INK, lw=1.3, marker="o", ms=3, zorder=3)
    failed = int(samples["first_failure"].notna().sum())
    axes.set_title(f"{failed} of {len(samples)} fail", loc="right", fontsize=8.5, color=style.MUTED, pad=5)
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    style.grid(axes)
