"""How well α and β are known together: they move as one, so two separate intervals say too little."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law

_TURNS = 200


def draw_ellipse(law: Law) -> Figure:
    """The bootstrap draws of (α, β), their 95 % ellipse, the estimate with both intervals, and lines to compare with.

    On α = β only the ratio r/ℓ would count; at α = 1 or β = 1 twice the rank (half the text) would be worth twice as
    much. Needs a law with draws.
    """
    alpha, beta = law.draw("alpha"), law.draw("beta")
    centre, covariance, scale = law.ellipse()
    values, vectors = np.linalg.eigh(np.asarray(covariance, float))
    turn = np.linspace(0, 2 * np.pi, _TURNS)
    round_ = np.sqrt(np.maximum(values, 0.0) * scale)[:, None] * np.stack([np.cos(turn), np.sin(turn)])
    x, y = np.asarray(centre, float)[:, None] + vectors @ round_
    limits = _view((x, alpha, law.alpha), (y, beta, law.beta))
    inside = (alpha > limits[0][0]) & (alpha < limits[0][1]) & (beta > limits[1][0]) & (beta < limits[1][1])
    with style.look():
        made = style.figure(6.4, 6.2)
        axes = made.add_subplot()
        _references(axes, limits)
        axes.plot(alpha[inside], beta[inside], "o", ms=3.2, mew=0, color=style.MUTED, alpha=0.4, zorder=2)
        axes.fill(x, y, color=style.ACCENT, alpha=0.1, lw=0, zorder=1)
        axes.plot(x, y, color=style.ACCENT, lw=1.6, zorder=3)
        (low, high), (under, over) = law.interval("alpha"), law.interval("beta")
        axes.hlines(law.beta, low, high, color=style.INK, lw=1.4, zorder=4)
        axes.vlines(law.alpha, under, over, color=style.INK, lw=1.4, zorder=4)
        axes.plot(law.alpha, law.beta, "o", ms=8, color=style.INK, mec="white", mew=0.8, zorder=5)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        axes.set_aspect("equal")
        style.grid(axes)
        axes.set_xlabel("α, the exponent of the rank")
        axes.set_ylabel("β, the exponent of the length")
        made.suptitle(_title(law, alpha, beta), x=0.012, ha="left", fontsize=10.5, linespacing=1.5)
        made.legend(handles=_entries(int((~inside).sum()), len(alpha)), loc="outside lower center", ncols=2,
                    frameon=False, fontsize=8.8)  # fmt: skip
    return made


def _view(*sides: tuple[np.ndarray, np.ndarray, float]) -> list[tuple[float, float]]:
    """Limits of both axes, of equal span: the ellipse, the estimate and all but the wildest draws."""
    ends = []
    for line, draws, value in sides:
        wild = np.percentile(draws, [1, 99])
        ends.append((min(line.min(), wild[0], value), max(line.max(), wild[1], value)))
    span = 1.16 * max(max(high - low for low, high in ends), 1e-6)
    return [((low + high - span) / 2, (low + high + span) / 2) for low, high in ends]


def _references(axes: Axes, limits: list[tuple[float, float]]) -> None:
    """α = β, and 1, where they are in view."""
    (left, right), (bottom, top) = limits
    look: Any = {"color": style.MUTED, "lw": 1.1, "ls": (0, (4, 3)), "zorder": 1}
    words: Any = {"color": style.MUTED, "fontsize": 9}
    start, end = max(left, bottom), min(right, top)
    if end > start:
        axes.plot([start, end], [start, end], **look)
        axes.annotate("α = β", (end, end), (-7, -9), textcoords="offset points", ha="right", va="top",
                      rotation=45, rotation_mode="anchor", **words)  # fmt: skip
    if left < 1 < right:
        axes.axvline(1, **look)
        axes.annotate("α = 1", (1, bottom), (4, 5), textcoords="offset points", **words)
    if bottom < 1 < top:
        axes.axhline(1, **look)
        axes.annotate("β = 1", (left, 1), (5, 4), textcoords="offset points", **words)


def _title(law: Law, alpha: np.ndarray, beta: np.ndarray) -> str:
    low, high = law.interval("alpha")
    under, over = law.interval("beta")
    together = float(np.corrcoef(alpha, beta)[0, 1]) if np.ptp(alpha) and np.ptp(beta) else 0.0
    return (
        f"α = {law.alpha:.3f} [{low:.3f}, {high:.3f}],   β = {law.beta:.3f} [{under:.3f}, {over:.3f}]\n"
        f"correlation of the two: {together:.2f}"
    )


def _entries(outside: int, draws: int) -> list[Any]:
    faint = f"{draws} refits to resampled cells" + (f" ({outside} beyond the frame)" if outside else "")
    return [
        Line2D([], [], color=style.INK, marker="o", mec="white", lw=1.4, label="estimate, 95 % interval of each"),
        Line2D([], [], color=style.ACCENT, lw=1.6, label="95 % ellipse of both"),
        Line2D([], [], color=style.MUTED, marker="o", ms=3.5, ls="", alpha=0.7, label=faint),
    ]
