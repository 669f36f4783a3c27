"""The law's portrait: ΔL against rank, a line a length, and against length, a line a rank (PAPER.md, Figure 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from memlaw_jax.analysis.cells import SATURATED, Cells, gather
from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law


def draw_curves(frame: pd.DataFrame, law: Law, ln_vocab: float | None = None) -> Figure:
    """Cell means with the range over seeds, used filled and dropped hollow, and the fitted lines, log-log, in nats.

    Lines are solid where the law predicts an unsaturated cell and faint and dashed beyond. The shaded band lies between
    final loss ln 2 and final loss 0, the ceiling of ΔL. With `ln_vocab` a dotted line marks L_initial − ln V: what
    falling from the base's loss to a uniform guess is worth (left out where it is far below every cell).
    """
    cells = gather(frame)
    used = {(cell.rank, cell.length) for cell in law.used}
    filled = np.array([key in used for key in cells.key])
    ceiling = float(cells.initial.mean())
    positive = cells.low[cells.low > 0]
    bottom = min([*positive.tolist(), ceiling / 2])
    unlearned = None if ln_vocab is None else ceiling - ln_vocab
    if unlearned is not None and unlearned < bottom / 2:
        unlearned = None  # a base that starts near ln V or below has next to nothing to unlearn
    with style.look():
        made = style.figure(12.4, 5.4)
        axes = made.subplots(1, 2, sharey=True)
        for panel, by in zip(axes, ("rank", "length"), strict=True):
            _panel(made, panel, by, cells, filled, law)
            _levels(panel, cells, by, ceiling, unlearned)
            low = 0.85 * min(bottom, unlearned or bottom)
            style.log_nats(panel, low, ceiling * (ceiling / low) ** 0.11)  # a ninth of the axis, for the label
            style.grid(panel)
        axes[0].set_ylabel("ΔL = initial − final loss  (nats per answer token)")
        axes[0].set_title("against rank, one line a length")
        axes[1].set_title("against length, one line a rank")
        made.suptitle(_title(law), x=0.012, ha="left", fontsize=13)
        _legend(
            made,
            dropped=not filled.all(),
            seeds=bool((cells.runs > 1).any()),
            hidden=int((cells.delta <= 0).sum()),
            unlearned=unlearned,
        )
    return made


def _panel(made: Figure, panel: Axes, by: str, cells: Cells, filled: np.ndarray, law: Law) -> None:
    across, other = (cells.rank, cells.length) if by == "rank" else (cells.length, cells.rank)
    values = [int(value) for value in np.unique(other)]
    colours = (style.length_colours if by == "rank" else style.rank_colours)(values)
    ends = np.unique(across)
    fine = np.geomspace(ends[0], ends[-1], 300)
    for value in values:
        colour, mine = colours[value], other == value
        rank, length = (fine, value) if by == "rank" else (value, fine)
        line = law.predict(rank, length)
        initial = np.exp(np.interp(np.log(fine), np.log(across[mine]), np.log(np.maximum(cells.initial[mine], 1e-9))))
        fits = (line > 0) & (initial - line > SATURATED)
        panel.plot(fine, np.where(fits, line, np.nan), color=colour, lw=1.5, zorder=3)
        panel.plot(fine, np.where((line > 0) & ~fits, line, np.nan), color=colour, lw=1.0, alpha=0.4, ls=(0, (4, 3)))
        for full in (True, False):
            some = mine & (filled == full) & (cells.delta > 0)
            low = np.maximum(cells.low[some], 1e-9)  # a logarithmic axis has no room for runs that learned nothing
            panel.vlines(across[some], low, cells.high[some], color=colour, lw=1.0, alpha=0.7, zorder=3)
            panel.plot(
                across[some],
                cells.delta[some],
                "o",
                ms=5.5,
                mfc=colour if full else "white",
                mec="white" if full else colour,
                mew=0.6 if full else 1.1,
                zorder=5 if full else 4,
            )
    style.log_ticks(panel, "x", [float(x) for x in ends])
    panel.set_xlabel("LoRA rank r" if by == "rank" else "length ℓ (answer tokens)")
    style.key(made, panel, colours, "length ℓ" if by == "rank" else "rank r", falling=by == "rank")


def _levels(panel: Axes, cells: Cells, by: str, ceiling: float, unlearned: float | None) -> None:
    """The ceiling, the band of saturation under it, and the level of a uniform guess."""
    panel.axhspan(max(ceiling - SATURATED, 1e-9), ceiling, color=style.SHADE, zorder=0, lw=0)
    panel.axhline(ceiling, color=style.MUTED, lw=1.0, zorder=1)
    # Each label stands where its panel is empty: small ranks and long lengths have small ΔL.
    side, align = (0.015, "left") if by == "rank" else (0.985, "right")
    about = "about " if np.ptp(cells.initial) > 0.02 * ceiling else ""
    panel.annotate(
        f"ceiling: initial loss, {about}{ceiling:.3g} nats",
        xy=(side, ceiling),
        xycoords=panel.get_yaxis_transform(),
        xytext=(0, 7),
        textcoords="offset points",
        ha=align,
        va="bottom",
        fontsize=8.5,
        color=style.MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        zorder=6,
    )
    if unlearned is not None:
        panel.axhline(unlearned, color=style.ACCENT, lw=1.3, ls=(0, (1, 1.6)), zorder=2)


def _title(law: Law) -> str:
    who = f" ({style.plain(law.method)})" if law.method else ""
    return f"Memory law{who}:   {style.law_in_mathtext(law)}     $R^2 = {law.r2:.4f}$"


def _legend(made: Figure, *, dropped: bool, seeds: bool, hidden: int, unlearned: float | None) -> None:
    """Below the panels, where no data are."""

    def line(label: str, **kind: Any) -> Line2D:
        return Line2D([], [], color=style.MUTED, label=label, **kind)

    entries: list[Line2D | Patch] = [
        line("mean of a cell", ls="", marker="o", ms=6, mec="white"),
        *([line("left out of the fit", ls="", marker="o", ms=6, mfc="white", mew=1.2)] if dropped else []),
        *([line("range over seeds", ls="", marker="|", ms=11, mew=1.2)] if seeds else []),
        line("fitted law", lw=1.6),
        line("beyond saturation", lw=1.1, ls=(0, (4, 3)), alpha=0.6),
        Patch(facecolor=style.SHADE, edgecolor="#d0d7de", lw=0.6, label="saturated: final loss below ln 2"),
    ]
    if unlearned is not None:
        words = "unlearning, from the base's loss down to the uniform level: "
        words += rf"$L_\mathrm{{initial}} - \ln V = {unlearned:.2f}$ nats"
        entries.append(Line2D([], [], color=style.ACCENT, lw=1.4, ls=(0, (1, 1.6)), label=words))
    if hidden:
        entries.append(line(f"({hidden} with ΔL ≤ 0 not shown)", ls=""))
    made.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=8.8, columnspacing=1.8)
