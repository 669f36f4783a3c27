"""What the law says against what was measured, cell by cell, and what is left over."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memlaw_jax.analysis.cells import SATURATED, gather
from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law


def draw_agreement(frame: pd.DataFrame, law: Law) -> Figure:
    """Measured ΔL over predicted ΔL (cell means, nats; a colour a rank), and the residuals of the used cells below.

    The shaded strip is ± one RMSE. Cells left out are hollow; those predicted far beyond the ceiling are only counted.
    """
    cells = gather(frame)
    used = {(cell.rank, cell.length): cell for cell in law.used}
    ceiling = float(cells.initial.max())
    ranks = sorted({int(rank) for rank in cells.rank})
    colours = style.rank_colours(ranks)
    # A used cell shows the mean that was fitted: under the filter 'paper' that of its kept runs.
    measured = np.array([used[key].delta if key in used else d for key, d in zip(cells.key, cells.delta, strict=True)])
    said = np.asarray(law.predict(cells.rank, cells.length))
    filled = np.array([key in used for key in cells.key])
    top = 1.06 * max(ceiling, float(measured.max()), float(said[filled].max()))
    bottom = min(0.0, float(measured.min()), float(said[filled].min()))
    bottom = min(bottom * 1.1, -0.02 * top)
    beyond = ~filled & (said > 0.985 * top)
    with style.look():
        made = style.figure(6.9, 7.4)
        main, rest = made.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        line = np.array([bottom, top])
        main.axhspan(ceiling - SATURATED, ceiling, color=style.SHADE, zorder=0, lw=0)
        main.axhline(ceiling, color=style.MUTED, lw=1.0, zorder=1)
        main.fill_between(line, line - law.rmse, line + law.rmse, color=style.GRID, lw=0, zorder=1)
        main.plot(line, line, color=style.MUTED, lw=1.1, zorder=2)
        rest.axhspan(-law.rmse, law.rmse, color=style.GRID, lw=0)
        rest.axhline(0, color=style.MUTED, lw=1.1)
        for rank in ranks:
            mine = cells.rank == rank
            in_, out = mine & filled, mine & ~filled & ~beyond
            dot = {"color": colours[rank], "ls": "", "marker": "o"}
            main.plot(said[out], measured[out], ms=5.5, mfc="white", mew=1.1, zorder=3, **dot)
            main.plot(said[in_], measured[in_], ms=6, mec="white", mew=0.6, zorder=4, **dot)
            rest.plot(said[in_], measured[in_] - said[in_], ms=5, mec="white", mew=0.5, zorder=4, **dot)
        main.set_xlim(bottom, top)
        main.set_ylim(bottom, top)
        reach = 1.25 * max(float(np.abs(measured - said)[filled].max()), law.rmse, 1e-12)
        rest.set_ylim(-reach, reach)
        for axes in (main, rest):
            style.grid(axes)
        main.set_ylabel("measured ΔL  (nats per answer token)")
        rest.set_ylabel("residual  (nats)")
        rest.set_xlabel("ΔL predicted by the law  (nats per answer token)")
        main.set_title("Predicted against measured", fontsize=13)
        main.text(
            0.98,
            0.04,
            _facts(law, int(beyond.sum())),
            transform=main.transAxes,
            ha="right",
            va="bottom",
            linespacing=1.5,
            fontsize=9.5,
        )
        main.annotate(
            "ceiling: initial loss;  shaded: saturated, final loss below ln 2",
            (0.015, ceiling),
            (0, 3),
            xycoords=main.get_yaxis_transform(),
            textcoords="offset points",
            va="bottom",
            fontsize=8.5,
            color=style.MUTED,
        )
        style.key(made, main, colours, "rank r")
    return made


def _facts(law: Law, beyond: int) -> str:
    lines = [
        f"$R^2$ = {law.r2:.4f}",
        f"RMSE = {law.rmse:.3g} nats ({100 * law.rmse_relative:.1f} % of the range)",
        f"{len(law.used)} cells used, {len(law.dropped)} left out",
    ]
    return "\n".join(lines + ([f"({beyond} of these are predicted beyond the axis)"] if beyond else []))
