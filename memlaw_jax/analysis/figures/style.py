"""One look for every figure: colours, type, ticks, colour keys and saving. Object-oriented Matplotlib, no pyplot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from memlaw_jax.analysis import files

DPI = 150
INK, MUTED, GRID, SHADE = "#1f2328", "#656d76", "#e4e7eb", "#f1f2f4"
ACCENT = "#c2410c"
# Perceptually even and safe for colour-blind readers; the palest ends are cut so that every line shows on white.
_RANKS, _LENGTHS = ("plasma", 0.0, 0.86), ("viridis", 0.0, 0.90)
_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8c959f",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "mathtext.fontset": "dejavusans",
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "memlaw",
}


def look() -> Any:
    """The settings as a context; everything is created inside it and nothing leaks to the caller's Matplotlib."""
    return mpl.rc_context(_LOOK)


def figure(width: float, height: float) -> Figure:
    """A bare figure in inches with an Agg canvas."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, place: epath.Path, name: str) -> list[epath.Path]:
    """Write NAME.png and NAME.svg; the same figure gives the same bytes."""
    written = []
    with look():
        for kind, extra in (("png", {"dpi": DPI}), ("svg", {"metadata": {"Date": None}})):
            buffer = io.BytesIO()
            made.savefig(buffer, format=kind, facecolor="white", **extra)
            made.set_layout_engine("none")  # laid out by the first drawing; a second one would take as long again
            written.append(files.write(place / f"{name}.{kind}", buffer.getvalue()))
    return written


def rank_colours(values: Sequence[int]) -> dict[int, Any]:
    """A colour for each rank, the same idea in every figure."""
    return _colours(values, *_RANKS)


def length_colours(values: Sequence[int]) -> dict[int, Any]:
    """A colour for each length."""
    return _colours(values, *_LENGTHS)


def _colours(values: Sequence[int], name: str, low: float, high: float) -> dict[int, Any]:
    at = np.linspace(low, high, len(values)) if len(values) > 1 else [0.5 * (low + high)]
    return dict(zip(values, mpl.colormaps[name](at), strict=True))


def key(made: Figure, axes: Axes | list[Axes], colours: dict[int, Any], title: str, falling: bool = False) -> None:
    """A stepped colour bar beside the axes, or beside several: a legend that covers no data, for any number of lines.

    `falling` puts the smallest value on top, for lines that stand in that order.
    """
    bounds = np.arange(len(colours) + 1)
    steps: Colormap = ListedColormap(list(colours.values()))
    bar = made.colorbar(
        ScalarMappable(BoundaryNorm(bounds, steps.N), steps), ax=axes, fraction=0.045, pad=0.02, aspect=26
    )
    bar.set_ticks(list(bounds[:-1] + 0.5), labels=[short(value) for value in colours])
    bar.ax.tick_params(which="both", length=0, labelsize=8.5)
    bar.set_label(title, fontsize=9.5)
    if falling:
        bar.ax.invert_yaxis()
    bar.outline.set_visible(False)  # type: ignore[operator]


def plain(name: str) -> str:
    """A name from the data as it stands: Matplotlib takes what is between dollar signs for mathematics."""
    return name.replace("$", r"\$")


def short(value: float) -> str:
    """2000 as 2k, 384 as 384."""
    return f"{value / 1000:g}k" if value >= 1000 and value % 100 == 0 else f"{value:g}"


def log_ticks(axes: Axes, which: str, values: Sequence[float], apart: float = 0.055) -> None:
    """A logarithmic axis labelled at the design's own values, leaving out those nearer than `apart` of its length.

    On an axis of usual width 5.5 % is what a label of three characters takes.
    """
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    span = np.log(values[-1] / values[0]) or 1.0
    shown = [values[0]]
    for value in values[1:]:
        if np.log(value / shown[-1]) > apart * span:
            shown.append(value)
    axis.set_major_locator(FixedLocator(list(shown)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(round(value))))
    axis.set_minor_locator(NullLocator())
    pad = np.exp(0.04 * span)
    getattr(axes, f"set_{which}lim")(values[0] / pad, values[-1] * pad)


def log_positions(axes: Axes, which: str, last: float, above: float | None = None) -> None:
    """A logarithmic axis of positions that count from 1, up to `last`; a tick at `above`, beyond it, says "none"."""
    axis = getattr(axes, f"{which}axis")
    getattr(axes, f"set_{which}scale")("log")
    steps = [k * 10**n for n in range(9) for k in (1, 2, 5) if k * 10**n <= last]
    ticks = steps if len(steps) <= 10 else steps[::3]
    axis.set_major_locator(FixedLocator([*ticks, *([] if above is None else [above])]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: "none" if value == above else short(round(value))))
    axis.set_minor_locator(NullLocator())


def log_nats(axes: Axes, low: float, high: float) -> None:
    """A logarithmic y axis in nats with plain numbers, the denser the shorter it is."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    subs = [1.0, 2.0, 5.0] if high / low > 12 else [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def grid(axes: Axes) -> None:
    axes.grid(True, color=GRID, linewidth=0.8)


def law_in_mathtext(law: Any) -> str:
    """ΔL = C r^α ℓ^(−β) + b with its numbers."""
    sign = "+" if law.b >= 0 else "-"
    number = f"{law.C:.3g}"
    if "e" in number:
        mantissa, power = number.split("e")
        number = rf"{mantissa}\times10^{{{int(power)}}}"
    return rf"$\Delta L = {number}\,r^{{{law.alpha:.3f}}}\,\ell^{{\,-{law.beta:.3f}}} {sign} {abs(law.b):.2f}$"
