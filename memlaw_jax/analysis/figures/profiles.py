"""Profile likelihoods of α, β and b: how much worse the best law becomes when one number is held elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.varpro import BOUNDS

_SIGNS = {"alpha": "α", "beta": "β", "b": "b  (nats)"}
_HEIGHT = 2.6  # of the axis at most, in thresholds
_WIDER = 0.6  # of the curve's width, that the view may reach beyond it for the bootstrap's interval


def draw_profiles(law: Law) -> Figure:
    """Deviance (−2 ln of the likelihood ratio on cell means) over each number, the others refitted everywhere.

    The 95 % interval is where the curve lies below the dashed line; under it stand that interval and the bootstrap's.
    A curve that is no parabola is why ± a standard error would not do. Dots are where it was computed, with straight
    lines between; exponents outside the shaded edges were not searched. An interval that goes on has an arrow, with its
    end where that is known. Needs a law with profiles.
    """
    with style.look():
        made = style.figure(3.9 * len(law.profiles) + 0.4, 4.5)
        panels = made.subplots(1, len(law.profiles), squeeze=False)[0]
        for axes, profile in zip(panels, law.profiles, strict=True):
            _panel(axes, law, profile)
        panels[0].set_ylabel("deviance over the best law")
        made.suptitle("Profile likelihoods", x=0.012, ha="left", fontsize=13)
        entries = [
            Line2D([], [], color=style.INK, lw=1.4, marker="o", ms=3, label="profile, computed at the dots"),
            Line2D([], [], color=style.MUTED, lw=1.1, ls=(0, (4, 3)), label="edge of 95 %"),
            Line2D([], [], color=style.ACCENT, lw=4, label="95 % interval from the profile"),
            *([Line2D([], [], color="#0969da", lw=4, label="from the bootstrap")] if law.draws else []),
        ]
        made.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=8.8)
    return made


def _panel(axes: Axes, law: Law, profile: Any) -> None:
    values, deviance = np.asarray(profile.values, float), np.asarray(profile.deviance, float)
    top, unit = _HEIGHT * profile.threshold, profile.threshold
    top = min(top, max(1.06 * float(deviance.max(initial=0.0)), 1.3 * unit))
    best = float(getattr(law, profile.name))
    seen = values[deviance <= top]
    ends = [*(seen if len(seen) else values), best]
    left, right = min(ends), max(ends)
    if law.draws:
        low, high = law.interval(profile.name)
        wider = _WIDER * (right - left)
        left, right = min(left, max(low, left - wider)), max(right, min(high, right + wider))
    pad = 0.05 * (right - left) or 0.05
    axes.axhline(profile.threshold, color=style.MUTED, lw=1.1, ls=(0, (4, 3)), zorder=1)
    axes.plot(values, deviance, color=style.INK, lw=1.4, marker=".", ms=4.5, zorder=3)
    axes.plot(best, 0, "o", ms=7, color=style.INK, mec="white", mew=0.8, zorder=5)
    if profile.name != "b":
        for edge, beyond in zip(BOUNDS, (-np.inf, np.inf), strict=True):
            if left - pad < edge < right + pad:
                axes.axvspan(edge, np.clip(beyond, left - pad, right + pad), color=style.SHADE, lw=0, zorder=0)
    if left - pad <= 0 <= right + pad:
        axes.axvline(0, color=style.MUTED, lw=1.0, zorder=1)
    _interval(axes, -0.22 * unit, profile.low, profile.high, (left - pad, right + pad), style.ACCENT)
    if law.draws:
        _interval(axes, -0.42 * unit, *law.interval(profile.name), (left - pad, right + pad), "#0969da")
    axes.set_xlim(left - pad, right + pad)
    axes.set_ylim(-0.58 * unit, top)
    ticks = [tick for tick in MaxNLocator(5).tick_values(0, top) if 0 <= tick <= top]
    axes.set_yticks(ticks)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    style.grid(axes)
    axes.set_xlabel(_SIGNS.get(profile.name, profile.name))
    axes.set_title(f"{_SIGNS.get(profile.name, profile.name)[0]} = {_number(best)}  {_span(profile)}")


def _interval(
    axes: Axes, at: float, low: float | None, high: float | None, view: tuple[float, float], colour: str
) -> None:
    """A bar; an arrow where the interval does not close, and with its end in words where that is out of view."""
    start, end = (view[0] if low is None else low), (view[1] if high is None else high)
    axes.plot([start, end], [at, at], color=colour, lw=4, solid_capstyle="butt", zorder=4)
    sides = ((low, start < view[0], view[0], "<", "left"), (high, end > view[1], view[1], ">", "right"))
    for known, beyond, place, marker, side in sides:
        if known is None or beyond:
            axes.plot(place, at, marker, ms=8, color=colour, clip_on=False, zorder=4)
        if known is not None and beyond:
            axes.annotate(_number(known), (place, at), (8 if side == "left" else -8, 3), textcoords="offset points",
                          ha=side, va="bottom", fontsize=8, color=colour)  # fmt: skip


def _span(profile: Any) -> str:
    low, high = ("open" if end is None else _number(end) for end in (profile.low, profile.high))
    return f"[{low}, {high}]"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
