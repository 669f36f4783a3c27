"""p(token) against its position, a panel a rank: where the text is held and where it is not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.tokens.tokens import Tokens

COLUMNS = 4
_SHORT = 40  # positions up to which every one gets a marker of its own


def draw_positions(tokens: Tokens, method: str, length: int | None = None, threshold: float = 0.5) -> Figure:
    """Teacher-forced p of every token of one length, in the run of the lowest seed of each rank.

    One sample a run (long context): every token as a dot, missed ones in the accent colour, and a running mean. Several
    (PhoneBook): the mean over samples at each position with the band of its 10th to 90th percentile. `length` None
    takes the one, of those run at most ranks, over which the ranks differ most.
    """
    table = tokens.of_method(method)
    length = chosen_length(table) if length is None else length
    table = table[table["length"] == length]
    table = table[table["run"].isin(table.groupby("rank")["run"].min())]
    ranks = sorted(int(rank) for rank in table["rank"].unique())
    colours = style.rank_colours(ranks)
    single = table.groupby("run")["sample"].nunique().max() == 1
    with style.look():
        made, panels = panel_each(len(ranks), "p(token)")
        for axes, rank in zip(panels, ranks, strict=True):
            mine = table[table["rank"] == rank]
            axes.axhline(threshold, color=style.ACCENT, lw=1.0, ls="--", zorder=2)
            (_dots if single else _band)(axes, mine, colours[rank])
            above = float((mine["p"] > threshold).mean())
            axes.set_title(f"rank {rank}", fontsize=10.5, pad=5)
            axes.set_title(
                f"{100 * above:.0f} % above {threshold:g}", loc="right", fontsize=8.5, color=style.MUTED, pad=5
            )
            axes.set_ylim(-0.03, 1.03)
            style.grid(axes)
        what = "1 sample" if single else f"{table.groupby('run')['sample'].nunique().max()} samples"
        title = f"Probability of each token: {style.plain(method)}, {length} answer tokens, {what}"
        made.suptitle(title, x=0.012, ha="left", fontsize=12.5)
        _legend(made, single, threshold, narrow=len(panels) < 3)
    return made


def panel_each(
    number: int, what: str, across: str = "position in the answer", columns: int = COLUMNS
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` small panels on shared axes, at most `columns` a row, rows as even as can be."""
    rows = math.ceil(number / columns)
    columns = math.ceil(number / rows)
    made = style.figure(max(2.9 * columns + 0.5, 6.4), 2.3 * rows + 1.2)
    panels = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for spare in panels.flat[number:]:
        spare.remove()
    for i, axes in enumerate(panels.flat[:number]):
        if i + columns >= number:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(across)
        if i % columns == 0:
            axes.set_ylabel(what)
    return made, list(panels.flat[:number])


def chosen_length(table: pd.DataFrame) -> int:
    """Of the lengths that most ranks were run at, the one over which the ranks' mean p spreads most."""
    means = table.groupby(["length", "rank"])["p"].mean().groupby("length").agg(["size", "min", "max"])
    means = means[means["size"] == means["size"].max()]
    return int((means["max"] - means["min"]).idxmax())


def _dots(axes: Axes, mine: pd.DataFrame, colour: object) -> None:
    position, p = mine["position"].to_numpy(), mine["p"].to_numpy()
    right = mine["right"].to_numpy()
    size = float(np.clip(24 * (60 / len(p)) ** 0.5, 2.0, 14.0))
    faint = float(np.clip(400 / len(p), 0.4, 0.75))
    flat = len(p) > 500
    axes.scatter(position[right], p[right], s=size, color=colour, alpha=faint, lw=0, zorder=3, rasterized=flat)
    axes.scatter(position[~right], p[~right], s=size, color=style.ACCENT, alpha=max(faint, 0.6), marker="x", lw=0.8,
                 zorder=4, rasterized=flat)  # fmt: skip
    width = max(9, len(p) // 15)
    mean = pd.Series(p).rolling(width, center=True, min_periods=width // 2).mean()
    axes.plot(position, mean, color="white", lw=3.2, zorder=5)
    axes.plot(position, mean, color=colour, lw=1.8, zorder=6)


def _band(axes: Axes, mine: pd.DataFrame, colour: object) -> None:
    groups = mine.groupby("position")["p"]
    mean, low, high = groups.mean(), groups.quantile(0.1), groups.quantile(0.9)
    axes.fill_between(mean.index, low, high, color=colour, alpha=0.18, lw=0, zorder=1)
    few = len(mean) <= _SHORT
    axes.plot(mean.index, mean, color=colour, lw=1.8, marker="o" if few else "", ms=4.5, mec="white", mew=0.6, zorder=4)
    if len(mean) <= 12:
        axes.set_xticks(mean.index)


def _legend(made: Figure, single: bool, threshold: float, narrow: bool) -> None:
    def entry(label: str, **kind: object) -> Line2D:
        return Line2D([], [], **({"color": style.MUTED} | kind), label=label)  # type: ignore[arg-type]

    entries: list[Line2D | Patch] = [entry("p = ½" if threshold == 0.5 else f"p = {threshold:g}", color=style.ACCENT,
                                           lw=1.0, ls="--")]  # fmt: skip
    if single:
        entries += [entry("a token, arg-max right", ls="", marker="o", ms=4)]
        entries += [entry("a token, arg-max wrong", ls="", marker="x", ms=4.5, color=style.ACCENT)]
        entries += [entry("running mean", lw=1.8)]
    else:
        entries += [entry("mean over samples", lw=1.8, marker="o", ms=4.5, mec="white")]
        entries += [Patch(facecolor=style.MUTED, alpha=0.25, lw=0, label="10th to 90th percentile")]
    made.legend(handles=entries, loc="outside lower center", ncols=2 if narrow else 4, frameon=False, fontsize=9)
