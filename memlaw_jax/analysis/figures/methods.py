"""Training methods over rank, at equal token visits: what is recalled by each, with intervals over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from memlaw_jax.analysis.comparison.methods import Methods
from memlaw_jax.analysis.comparison.methods_pairs import MEASURES, Measure
from memlaw_jax.analysis.figures import style

_METHODS = {
    "sft": ("#656d76", "o"),
    "memft-ot": ("#4338ca", "s"),
    "memft-sw": (style.ACCENT, "^"),
    "memft-curriculum": ("#0d9488", "D"),
}
_OTHERS = (("#be185d", "v"), ("#a16207", "P"), ("#0369a1", "X"), (style.INK, "*"))
_TITLES = {
    "exact_match": "Exact match",
    "token_accuracy_free": "Token accuracy, free-running",
    "token_accuracy": "Token accuracy, teacher-forced",
    "p_min": "Worst token",
}
_AXES = {
    "exact_match": "samples recalled word for word",
    "token_accuracy_free": "tokens right",
    "token_accuracy": "arg-max right",
    "p_min": "p",
}
_LEAST = 1e-9


def draw_methods(found: Methods, task: str) -> Figure:
    """Means over seeds of one task: a row a length, a column a measure, a line a method over rank.

    Bars are 95 % intervals over seeds (Student's t; none where seeds do not spread), moved a little apart within a
    rank. The worst token's p is on a logarithmic axis cut at 1e-9, with ½, above which a token is surely the arg-max.
    """
    table = found.means[found.means["task"] == task]
    lengths = sorted({int(length) for length in table["length"]})
    measures = [measure for measure in MEASURES.values() if (table["measure"] == measure.column).any()]
    names = [name for name in found.names if (table["method"] == name).any()]
    looks = method_looks(names)
    with style.look():
        made = style.figure(3.15 * len(measures) + 0.5, 3.05 * len(lengths) + 0.75)
        panels = made.subplots(len(lengths), len(measures), sharex=True, squeeze=False)
        for row, length in zip(panels, lengths, strict=True):
            for axes, measure in zip(row, measures, strict=True):
                here = table[(table["length"] == length) & (table["measure"] == measure.column)]
                _panel(axes, here, measure, looks)
                axes.set_ylabel(_AXES[measure.column])
            if len(lengths) > 1:
                row[0].set_ylabel(f"ℓ = {length}\n{_AXES[measures[0].column]}")
        for axes, measure in zip(panels[0], measures, strict=True):
            axes.set_title(_TITLES[measure.column])
        ranks = sorted({int(rank) for rank in table["rank"]})
        for axes in panels.flat:
            style.log_ticks(axes, "x", ranks, apart=0.1)
        for axes in panels[-1]:
            axes.set_xlabel("LoRA rank r")
        made.suptitle(_title(table, task, lengths), x=0.008, ha="left", fontsize=12.5)
        entries: list[Any] = [
            Line2D([], [], color=colour, marker=marker, ms=6, lw=1.6, mec="white", mew=0.6, label=name)
            for name, (colour, marker) in looks.items()
        ]
        made.legend(handles=entries, loc="outside lower center", ncols=len(entries), frameon=False, fontsize=9.5)
    return made


def _panel(axes: Axes, table: pd.DataFrame, measure: Measure, looks: dict[str, tuple[str, str]]) -> None:
    names = [name for name in looks if (table["method"] == name).any()]
    for place, name in enumerate(names):
        line = table[table["method"] == name].sort_values("rank")
        mean, low, high = (line[column].to_numpy(float) for column in ("mean", "low", "high"))
        if measure.logarithmic:
            mean, low, high = (np.maximum(10.0**values, _LEAST) for values in (mean, low, high))
        bars = np.nan_to_num(np.stack([mean - low, high - mean]), nan=0.0)
        colour, marker = looks[name]
        apart = 1.03 ** (place - (len(names) - 1) / 2)
        axes.errorbar(line["rank"] * apart, mean, yerr=bars, color=colour, marker=marker, ms=5.5, mec="white", mew=0.6,
                      lw=1.5, elinewidth=1.1, capsize=0, alpha=0.95, zorder=3 + (name != "sft"))  # fmt: skip
    style.grid(axes)
    if not measure.logarithmic:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        return
    axes.set_yscale("log")
    shown = np.concatenate([10.0 ** table[column].to_numpy(float) for column in ("mean", "low")])
    least = max(float(np.nanmin(shown)), _LEAST)
    axes.set_ylim(least / 1.6, 1.5)
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-3 else f"$10^{{{np.log10(value):.0f}}}$")
    )
    axes.axhline(0.5, color=style.MUTED, lw=1.0, ls=(0, (4, 3)), zorder=1)
    axes.annotate("½", (0.0, 0.5), (3, -10), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                  fontsize=8.5, color=style.MUTED)  # fmt: skip


def method_looks(names: list[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each method; the paper's have theirs in every figure."""
    spare = iter(_OTHERS * len(names))
    return {name: _METHODS.get(name) or next(spare) for name in names}


def _title(table: pd.DataFrame, task: str, lengths: list[int]) -> str:
    runs = sorted({int(count) for count in table["runs"]})
    seeds = f"{runs[0]} seed{'s' if runs[0] > 1 else ''}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} seeds"
    size = f", {lengths[0]} answer tokens" if len(lengths) == 1 else ""
    bars = "; bars: 95 % intervals" if runs[-1] > 1 else ""
    return f"{task.replace('_', ' ').capitalize()}{size}, {seeds}, equal token visits{bars}"
