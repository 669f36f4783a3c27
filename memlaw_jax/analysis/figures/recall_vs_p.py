"""How often a token of probability p is recalled: always above ½, and below it more often than one might think."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.tokens.microscope import Microscope
from memlaw_jax.analysis.tokens.phase import HALF, HalfCheck

_COLOURS = (style.INK, "#0969da", "#8250df", "#1a7f37")


def draw_recall_vs_p(found: Microscope) -> Figure:
    """Share of tokens whose arg-max is right against p, with Wilson's 95 % bars, over the number of tokens.

    A colour a precision of the frozen weights, where there are several. Shaded: p > ½, where arithmetic forbids a miss.
    """
    names = list(dict.fromkeys(found.recall_vs_p["frozen"]))
    with style.look():
        made = style.figure(7.6, 5.6)
        main, counts = made.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        main.axvspan(HALF, 1, color=style.SHADE, lw=0, zorder=0)
        for axes in (main, counts):
            axes.axvline(HALF, color=style.ACCENT, lw=1.1, ls="--", zorder=1)
        for i, name in enumerate(names):
            _series(main, counts, found, name, _COLOURS[i % len(_COLOURS)], i, len(names))
        main.set_ylim(-0.03, 1.06)
        main.yaxis.set_major_formatter(PercentFormatter(1.0))
        main.set_ylabel("arg-max right, given the true text")
        main.set_title("Half is enough, but not needed", fontsize=12.5)
        main.text(0.985, 0.05, _facts(found.checks), transform=main.transAxes, ha="right", va="bottom", fontsize=9,
                  linespacing=1.5)  # fmt: skip
        counts.set_yscale("log")
        counts.set_ylim(bottom=0.8)
        counts.yaxis.set_minor_locator(NullLocator())
        counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
        counts.set_ylabel("tokens")
        counts.set_xlabel("p(token), teacher-forced")
        counts.set_xlim(0, 1)
        counts.set_xticks(np.linspace(0, 1, 11))
        for axes in (main, counts):
            style.grid(axes)
        if len(names) > 1:
            main.legend(loc="center right", frameon=False, fontsize=9)
    return made


def _series(main: Axes, counts: Axes, found: Microscope, name: str, colour: str, i: int, of: int) -> None:
    table = found.recall_vs_p[found.recall_vs_p["frozen"] == name]
    low, high = table["low"].to_numpy(), table["high"].to_numpy()
    middle, width = (low + high) / 2, (high - low)
    at = middle + width * (i - (of - 1) / 2) / (of + 1)
    rate = table["rate"].to_numpy()
    bars = np.clip(np.stack([rate - table["rate_low"], table["rate_high"] - rate]), 0, None)
    main.errorbar(at, rate, yerr=bars, color=colour, ls="", marker="o", ms=5, mec="white", mew=0.6, elinewidth=1.3,
                  label=name, zorder=3)  # fmt: skip
    counts.bar(at, table["tokens"], width=0.82 * width / of, color=colour, alpha=0.55, lw=0, zorder=2)


def _facts(checks: tuple[HalfCheck, ...]) -> str:
    lines = []
    for check in checks:
        lines.append(f"{check.frozen}: {check.missed_above} of {check.above:,} above ½ missed".replace(",", " "))
        if check.highest_missed is not None:
            lines.append(f"the largest p missed is {check.highest_missed:.3f}")
        if check.samples_decoded:
            lines.append(f"free-running: {check.free_missed_above} of {check.free_above:,} missed".replace(",", " "))
    return "\n".join(lines)
