"""Two result sets side by side: B against A, their differences cell by cell, and the exponents of both laws."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from memlaw_jax.analysis.comparison.compare import Comparison, LawPair, Overall
from memlaw_jax.analysis.comparison.compare_words import signed
from memlaw_jax.analysis.figures import style

_MARKERS = ("o", "s", "^", "D", "v", "P")
_SIDES = {"a": style.MUTED, "b": style.ACCENT}


def draw_comparison(found: Comparison) -> Figure:
    """Left: final loss of B over that of A (nats), a colour a rank, with the range over seeds and the diagonal.

    Middle: the difference B − A of each cell with its 95 % interval, side by side within a rank, a colour a length (the
    other way round for a single rank), and the mean over cells with its interval. Right, where a law exists: α and β
    of both over the matched cells with their 95 % intervals. A marker a method, where there are several.
    """
    laws = [pair for pair in found.laws if pair.over == "matched cells" and (pair.a or pair.b)]
    by, other = ("length", "rank") if found.cells["rank"].nunique() == 1 else ("rank", "length")
    columns = found.cells[by].nunique()
    widths = [4.9, float(np.clip(2.2 + 0.55 * columns, 4.6, 9.0)), *([2.9] if laws else [])]
    with style.look():
        made = style.figure(sum(widths), 4.9)
        panels = made.subplots(1, len(widths), width_ratios=widths)
        _against(made, panels[0], found.cells)
        _differences(made, panels[1], found.cells, found.overall["final"], by, other)
        if laws:
            _exponents(panels[2], laws)
        made.suptitle(_title(found), x=0.012, ha="left", fontsize=12.5)
        _legend(made, found)
    return made


def _against(made: Figure, axes: Axes, cells: pd.DataFrame) -> None:
    colours = style.rank_colours(sorted({int(rank) for rank in cells["rank"]}))
    ends = cells[[f"final_{end}_{side}" for end in ("least", "greatest") for side in "ab"]].to_numpy()
    low, high = float(ends.min()), float(ends.max())
    low = 0.0 if low < 0.4 * high else low
    pad = 0.05 * (high - low) or 0.05
    axes.plot([low - pad, high + pad], [low - pad, high + pad], color=style.MUTED, lw=1.1, zorder=1)
    for row in cells.to_dict("records"):
        colour = colours[row["rank"]]
        bar: Any = {"color": colour, "lw": 1.0, "alpha": 0.7, "zorder": 2}
        axes.hlines(row["final_b"], row["final_least_a"], row["final_greatest_a"], **bar)
        axes.vlines(row["final_a"], row["final_least_b"], row["final_greatest_b"], **bar)
        axes.plot(
            row["final_a"], row["final_b"], _marker(cells, row), color=colour, ms=6, mec="white", mew=0.6, zorder=3
        )
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(low - pad, high + pad)
    axes.set_box_aspect(1)
    style.grid(axes)
    axes.set_xlabel("final loss of A  (nats per answer token)")
    axes.set_ylabel("final loss of B")
    _key(made, axes, "final loss, B against A", colours, "rank")


def _differences(made: Figure, axes: Axes, cells: pd.DataFrame, final: Overall, by: str, other: str) -> None:
    places = {value: place for place, value in enumerate(sorted(cells[by].unique()))}
    values = sorted({int(value) for value in cells[other]})
    colours = (style.length_colours if other == "length" else style.rank_colours)(values)
    tracks = sorted({(method, value) for method, value in zip(cells["method_b"], cells[other], strict=True)}, key=str)
    tracks.sort(key=lambda track: track[1])
    shift = dict(zip(tracks, np.linspace(-0.36, 0.36, len(tracks)) if len(tracks) > 1 else [0.0], strict=True))
    axes.axhline(0, color=style.MUTED, lw=1.1, zorder=1)
    if final.low is not None and final.high is not None:
        axes.axhspan(final.low, final.high, color=style.ACCENT, alpha=0.12, lw=0, zorder=0)
    axes.axhline(final.mean, color=style.ACCENT, lw=1.4, ls="--", zorder=2)
    size = 6.0 if len(cells) <= 80 else 4.5
    for row in cells.to_dict("records"):
        at = places[row[by]] + shift[row["method_b"], row[other]]
        colour = colours[row[other]]
        axes.vlines(at, row["final_low"], row["final_high"], color=colour, lw=1.1, alpha=0.75, zorder=3)
        axes.plot(
            at, row["final_difference"], _marker(cells, row), color=colour, ms=size, mec="white", mew=0.6, zorder=4
        )
    axes.set_xticks(list(places.values()), [style.short(value) for value in places])
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.grid(True, axis="y", color=style.GRID, linewidth=0.8)
    axes.set_xlabel("LoRA rank r" if by == "rank" else "length ℓ (answer tokens)")
    axes.set_ylabel("final loss, B − A  (nats per answer token)")
    _key(made, axes, "difference of each cell", colours, other)


def _key(made: Figure, axes: Axes, title: str, colours: dict[int, Any], what: str) -> None:
    """The title and the colour key; a single colour needs none."""
    if len(colours) == 1:
        axes.set_title(f"{title}, {what} {next(iter(colours))}")
    else:
        axes.set_title(title)
        style.key(made, axes, colours, "length ℓ" if what == "length" else "rank r")


def _exponents(axes: Axes, laws: list[LawPair]) -> None:
    """A row a law and exponent: point and interval, A above B."""
    labels, place = [], 0.0
    for name, sign in (("alpha", "α"), ("beta", "β")):
        for pair in laws:
            for offset, side in ((0.16, "a"), (-0.16, "b")):
                law = getattr(pair, side)
                if law is None:
                    continue
                look: Any = {"color": _SIDES[side], "zorder": 3}
                if law.draws:
                    axes.hlines(place + offset, *law.interval(name), lw=1.6, **look)
                axes.plot(getattr(law, name), place + offset, "o", ms=6.5, mec="white", mew=0.6, **look)
            labels.append((place, sign if len(laws) == 1 else f"{sign}  {pair.method_b}"))
            place -= 1.0
    axes.set_yticks([at for at, _ in labels], [label for _, label in labels], fontsize=12 if len(laws) == 1 else 10)
    axes.set_ylim(place + 0.4, 0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.grid(True, axis="x", color=style.GRID, linewidth=0.8)
    axes.set_xlabel("exponent")
    axes.set_title("laws of both")


def _marker(cells: pd.DataFrame, row: dict[Any, Any]) -> str:
    methods = list(cells["method_b"].unique())
    return _MARKERS[methods.index(row["method_b"]) % len(_MARKERS)]


def _title(found: Comparison) -> str:
    a, b = _short_names(found.a, found.b)
    for side, method in (("a", "method_a"), ("b", "method_b")):
        names = [name for name in found.cells[method].unique() if name]
        said = f" ({', '.join(names)})" if names else ""
        a, b = (a + said, b) if side == "a" else (a, b + said)
    return f"A: {a}     B: {b}"


def _short_names(a: str, b: str) -> tuple[str, str]:
    """The last parts of both paths, as many as it takes to tell them apart."""
    parts = [name.removesuffix("results.jsonl").rstrip(os.sep).split(os.sep) for name in (a, b)]
    for count in (1, 2, 3):
        one, other = (os.sep.join(names[-count:]) for names in parts)
        if one != other:
            break
    return tuple(name if len(name) <= 44 else "…" + name[-43:] for name in (one, other))  # type: ignore[return-value]


def _legend(made: Figure, found: Comparison) -> None:
    cells, final = found.cells, found.overall["final"]

    def line(label: str, **kind: Any) -> Line2D:
        return Line2D([], [], **({"color": style.MUTED} | kind), label=label)

    entries: list[Line2D | Patch] = [line("no difference", lw=1.1)]
    entries.append(line(f"mean over cells, {signed(final.mean)} nats", color=style.ACCENT, lw=1.4, ls="--"))
    if final.low is not None:
        entries.append(Patch(facecolor=style.ACCENT, alpha=0.15, lw=0, label="its 95 % interval"))
    if (cells[["runs_a", "runs_b"]] > 1).any(axis=None):
        entries.append(line("losses: range over seeds; differences: 95 % interval", ls="", marker="|", ms=11, mew=1.2))
    methods = list(cells["method_b"].unique())
    if len(methods) > 1:
        entries += [line(str(name), ls="", marker=_MARKERS[i % len(_MARKERS)], ms=6) for i, name in enumerate(methods)]
    if any(pair.over == "matched cells" and (pair.a or pair.b) for pair in found.laws):
        entries += [line(f"law of {side.upper()}", color=colour, marker="o", ms=6) for side, colour in _SIDES.items()]
    columns = len(entries) if len(entries) <= 6 else -(-len(entries) // 2)
    made.legend(handles=entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.8)
