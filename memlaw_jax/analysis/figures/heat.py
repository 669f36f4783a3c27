"""Heat maps over the grid rank × length, with the cells at or below ln 2 outlined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.figures import style


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column to map: `bounded` metrics are shares of 1 and shown in per cent."""

    name: str
    column: str
    title: str
    unit: str
    palette: str
    bounded: bool


METRICS = (
    Metric(
        name="final_loss",
        column="loss_final",
        title="Final loss",
        unit="nats per answer token",
        palette="viridis_r",
        bounded=False,
    ),
    Metric(
        name="exact_match",
        column="exact_match",
        title="Exact match: records recalled verbatim",
        unit="% of records",
        palette="viridis",
        bounded=True,
    ),
    Metric(
        name="token_accuracy",
        column="token_accuracy",
        title="Token accuracy: arg-max right",
        unit="% of answer tokens",
        palette="viridis",
        bounded=True,
    ),
    Metric(
        name="token_accuracy_free",
        column="token_accuracy_free",
        title="Token accuracy, free-running: decoded right",
        unit="% of answer tokens",
        palette="viridis",
        bounded=True,
    ),
)


def draw_heat(frame: pd.DataFrame, metric: Metric, ln_vocab: float | None = None) -> Figure:
    """Cell means of one metric over rank × length, bright where the text is remembered.

    Cells that were not run are hatched, diverged ones marked "div"; the outline holds the cells with loss_final ≤ ln 2.
    `ln_vocab` (nats), the loss of a uniform guess, is marked on the key of the loss.
    """
    grid = Grid.of(frame)
    with style.look():
        made = style.figure(*grid.size())
        axes = made.add_subplot()
        missing = draw_grid(made, axes, frame, metric, grid, ln_vocab)
        legend(made, bool(grid.below.any()), missing)
    return made


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The cells rank × length of a frame, those that diverged, and those whose mean loss_final is ≤ ln 2."""

    ranks: list[int]
    lengths: list[int]
    diverged: set[tuple[int, int]]
    below: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Grid:
        diverged = {(int(run["rank"]), int(run["length"])) for run in frame.attrs.get("diverged", ())}
        ranks = sorted({int(rank) for rank in frame["rank"]} | {rank for rank, _ in diverged})
        lengths = sorted({int(length) for length in frame["length"]} | {length for _, length in diverged})
        final = _means(frame, "loss_final", ranks, lengths)
        return cls(ranks=ranks, lengths=lengths, diverged=diverged, below=final <= SATURATED)

    def size(self) -> tuple[float, float]:
        """Width and height of one map with its labels, in inches."""
        return 2.4 + 0.62 * max(len(self.lengths), 6), 1.75 + 0.42 * max(len(self.ranks), 5)


def draw_grid(
    made: Figure, axes: Axes, frame: pd.DataFrame, metric: Metric, grid: Grid, ln_vocab: float | None = None
) -> bool:
    """One map with its colour key; returns whether cells are missing."""
    ranks, lengths = grid.ranks, grid.lengths
    table = _means(frame, metric.column, ranks, lengths)
    table = 100 * table if metric.bounded else table
    rows, columns = table.shape
    for side in axes.spines.values():
        side.set_visible(False)
    top = 100 if metric.bounded else max(float(np.nanmax(table)), SATURATED, 1.02 * (ln_vocab or 0.0))
    shown = mpl.colormaps[metric.palette]
    image = axes.pcolormesh(table, cmap=shown, vmin=0, vmax=top, edgecolors="white", linewidth=1.2)
    for i in range(rows):
        for j in range(columns):
            if np.isfinite(table[i, j]):
                _number(axes, i, j, table[i, j], metric, shown(table[i, j] / top))
            else:
                _absent(axes, i, j, (ranks[i], lengths[j]) in grid.diverged)
    _outline(axes, grid.below)
    axes.set_xticks(np.arange(columns) + 0.5, [style.short(length) for length in lengths])
    axes.set_yticks(np.arange(rows) + 0.5, [str(rank) for rank in ranks])
    axes.tick_params(length=0)
    axes.set_xlabel("length ℓ (answer tokens)")
    axes.set_ylabel("LoRA rank r")
    axes.set_title(metric.title, fontsize=12.5)
    bar = made.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=28)
    bar.set_label(metric.unit)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if not metric.bounded:
        bar.ax.axhline(SATURATED, color=style.ACCENT, lw=2)
        if ln_vocab is not None:
            bar.ax.axhline(ln_vocab, color="white", lw=1.6, ls=":")
            bar.set_label(f"{metric.unit}   (dotted: uniform guess, ln V = {ln_vocab:.2f})", fontsize=8.5, labelpad=8)
    return bool(np.isnan(table).any())


def _means(frame: pd.DataFrame, column: str, ranks: list[int], lengths: list[int]) -> np.ndarray:
    means = frame.groupby(["rank", "length"])[column].mean().astype(float)
    return means.unstack().reindex(index=ranks, columns=lengths).to_numpy()


def _number(axes: Axes, i: int, j: int, value: float, metric: Metric, colour: tuple[float, ...]) -> None:
    light = np.dot(colour[:3], (0.2126, 0.7152, 0.0722)) > 0.45
    if metric.bounded:
        text = f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"
    else:
        text = f"{value:.2f}" if value < 9.995 else f"{value:.1f}"
    axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8.2, color=style.INK if light else "white")


def _absent(axes: Axes, i: int, j: int, diverged: bool) -> None:
    axes.add_patch(Rectangle((j, i), 1, 1, facecolor="#f6f8fa", edgecolor="#c8ced6", hatch="////", lw=0))
    if diverged:
        axes.text(j + 0.5, i + 0.5, "div", ha="center", va="center", fontsize=8, color=style.ACCENT)


def _outline(axes: Axes, inside: np.ndarray) -> None:
    """The border between cells at or below ln 2 and the others, drawn along the cells' own edges."""
    padded = np.pad(inside, 1)
    right = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    upper = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    edge: Any = {"color": style.ACCENT, "lw": 2.4, "solid_capstyle": "round", "clip_on": False, "zorder": 5}
    for i, j in right:
        axes.plot([j, j], [i, i + 1], **edge)
    for i, j in upper:
        axes.plot([j, j + 1], [i, i], **edge)


def legend(made: Figure, outlined: bool, missing: bool) -> None:
    entries = []
    if outlined:
        words = "final loss at or below ln 2 = 0.693"
        entries.append(Patch(facecolor="none", edgecolor=style.ACCENT, lw=2, label=words))
    if missing:
        entries.append(Patch(facecolor="#f6f8fa", edgecolor="#c8ced6", hatch="////", lw=0, label="not run"))
    if entries:
        made.legend(handles=entries, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
