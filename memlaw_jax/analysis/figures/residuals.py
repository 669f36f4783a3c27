"""Where the law errs: what is left of each cell over rank × length."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law

PALETTE = "RdBu_r"


def draw_residuals(law: Law) -> Figure:
    """Measured − predicted ΔL of the used cells in nats, on a diverging scale that is symmetric about 0.

    Noise alone mixes the signs; whole rows, columns or corners of one colour are a bend that the law has not. Cells
    left out are hatched, those that were not run empty; the marks on the key are ± one RMSE.
    """
    ranks, lengths = (sorted({getattr(cell, name) for cell in law.cells}) for name in ("rank", "length"))
    used = {(cell.rank, cell.length): cell.delta - cell.predicted for cell in law.used}
    left_out = {(cell.rank, cell.length) for cell in law.dropped}
    table = np.array([[used.get((rank, length), np.nan) for length in lengths] for rank in ranks])
    reach = max(float(np.nanmax(np.abs(table))), 1e-12)
    places = int(np.clip(1 - np.floor(np.log10(reach)), 1, 4))  # two digits of the largest
    rows, columns = table.shape
    with style.look():
        made = style.figure(2.6 + 0.66 * max(columns, 6), 1.9 + 0.42 * max(rows, 5))
        axes = made.add_subplot()
        for side in axes.spines.values():
            side.set_visible(False)
        shown = mpl.colormaps[PALETTE]
        image = axes.pcolormesh(table, cmap=shown, vmin=-reach, vmax=reach, edgecolors="white", linewidth=1.2)
        for i, rank in enumerate(ranks):
            for j, length in enumerate(lengths):
                if (rank, length) in used:
                    value = float(table[i, j])
                    light = np.dot(shown(0.5 + 0.5 * value / reach)[:3], (0.2126, 0.7152, 0.0722)) > 0.45
                    axes.text(j + 0.5, i + 0.5, _signed(value, places), ha="center", va="center",
                              fontsize=7.8, color=style.INK if light else "white")  # fmt: skip
                elif (rank, length) in left_out:
                    axes.add_patch(
                        Rectangle((j, i), 1, 1, facecolor="#f6f8fa", edgecolor="#c8ced6", hatch="////", lw=0)
                    )
        axes.set_xticks(np.arange(columns) + 0.5, [style.short(length) for length in lengths])
        axes.set_yticks(np.arange(rows) + 0.5, [str(rank) for rank in ranks])
        axes.tick_params(length=0)
        axes.set_xlabel("length ℓ (answer tokens)")
        axes.set_ylabel("LoRA rank r")
        axes.set_title("Residuals: measured − predicted ΔL", fontsize=12.5)
        bar = made.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=28)
        bar.set_label(f"nats per answer token   (marks: ± RMSE, {law.rmse:.3g})", fontsize=9)
        bar.outline.set_visible(False)  # type: ignore[operator]
        for edge in (-law.rmse, law.rmse):
            bar.ax.axhline(edge, color=style.INK, lw=1.3)
        if left_out:
            hatched = Patch(facecolor="#f6f8fa", edgecolor="#c8ced6", hatch="////", lw=0, label="left out of the fit")
            made.legend(handles=[hatched], loc="outside lower center", frameon=False, fontsize=9)
    return made


def _signed(value: float, places: int) -> str:
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return "0"
    return ("+" if value > 0 else "−") + text.removeprefix("0")
