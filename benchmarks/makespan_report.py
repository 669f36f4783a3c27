"""What the roads of the makespan benchmark took and found: JSON, table, figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from makespan import FASTER, released_records
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from throughput_machine import told

from memlaw_jax import UserError, fit_law
from memlaw_jax.analysis import read_frame
from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.figures import style

PARAMETERS = ("alpha", "beta", "b")
SYMBOLS = {"alpha": "α", "beta": "β", "b": "b"}
COLOURS = {"ours": style.ACCENT, "plain": "#e8a27c", "released": "#4338ca"}
PAPER = "Paper: not given, it has no times. PyTorch: the released procedure, measured here."
WORDS = {
    "ours": "memlaw_jax, stop: recalled, skip: saturated",
    "plain": "memlaw_jax, every cell to its budget",
    "released": "the released procedure, PyTorch",
}


def report(out: Path, plan: dict[str, Any], roads: Sequence[str], arguments: Sequence[str]) -> str:
    """Writes everything that the finished roads say; returns the words."""
    if not roads:
        return "No road is finished yet."
    frames = {road: read_frame(out / road) for road in roads}
    found = {
        road: _took(out, road) | {"law": _law(frames[road]), "unsaturated": _unsaturated(frames[road])}
        for road in roads
    }
    content = told("makespan.py", arguments) | {"plan": plan, "roads": found, "comparisons": compare(found)}
    content["cells"] = {road: _cells(frame) for road, frame in frames.items()}
    text = "\n".join([f"{content['hardware']}; {content['date']}; `{content['command']}`", "", table(found), PAPER, ""])
    (out / "makespan.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (out / "table.md").write_text(text)
    with style.look():
        style.save(draw(frames, found), epath.Path(out), "makespan")
    return f"{text}\nwrote {out / 'makespan.json'}, table.md, makespan.png and makespan.svg"


def _took(out: Path, road: str) -> dict[str, Any]:
    if road != "released":
        return json.loads((out / f"{road}.json").read_text())
    records = released_records(out)
    return {
        "seconds": round(sum(record["seconds"] for record in records), 2),
        "cpu_seconds": round(sum(record["cpu_seconds"] for record in records), 2),
        "cells": len(records),
        "skipped": 0,
        "steps": sum(record["steps"] for record in records),
    }


def _law(frame: pd.DataFrame) -> dict[str, Any]:
    try:
        law = fit_law(frame, filter="predicted")
    except UserError as problem:
        return {"unfitted": str(problem)}
    return {
        "used": len(law.used),
        "rmse": law.rmse,
        **{name: getattr(law, name) for name in PARAMETERS},
        "intervals": {name: list(law.interval(name)) for name in PARAMETERS},
    }


def _unsaturated(frame: pd.DataFrame) -> int:
    return int((frame["loss_final"] > SATURATED).sum())


def _cells(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["rank", "length", "loss_initial", "loss_final", "steps", "stopped", "exact_match", "seconds"]
    return frame[columns].to_dict("records")  # type: ignore[return-value]


def compare(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Our roads with the release's: how many times as fast, and whether α and β lie within each other's intervals."""
    if "released" not in found:
        return []
    theirs, compared = found["released"], []
    for road in ("ours", "plain"):
        if road not in found:
            continue
        row: dict[str, Any] = {"road": road, "times_as_fast": theirs["seconds"] / found[road]["seconds"]}
        row["times_as_fast_cpu"] = theirs["cpu_seconds"] / found[road]["cpu_seconds"]
        one, other = found[road]["law"], theirs["law"]
        for name in ("alpha", "beta"):
            if "unfitted" not in one | other:
                row[name] = {
                    "ours_within_released": _within(one[name], other["intervals"][name]),
                    "released_within_ours": _within(other[name], one["intervals"][name]),
                }
        compared.append(row)
    return compared


def _within(value: float, interval: Sequence[float]) -> bool:
    return bool(interval[0] <= value <= interval[1])


def table(found: dict[str, Any]) -> str:
    """Markdown: a line a road, then a sentence a target."""
    lines = [
        "| road | cells run | skipped | unsaturated | steps | makespan | CPU | α | β | b | cells fitted |",
        f"|{'---|' * 11}",
    ]
    for road, one in found.items():
        law = one["law"]
        numbers = ["no law", "", "", ""]
        if "unfitted" not in law:
            numbers = [*(_number(law, name) for name in PARAMETERS), str(law["used"])]
        took = [str(one[key]) for key in ("cells", "skipped", "unsaturated", "steps")]
        line = [WORDS[road], *took, f"{one['seconds']:.1f} s", f"{one['cpu_seconds']:.1f} s", *numbers]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join([*lines, "", *_sentences(found)])


def _number(law: dict[str, Any], name: str) -> str:
    low, high = law["intervals"][name]
    return f"{law[name]:.3f} [{low:.3f}, {high:.3f}]"


def _sentences(found: dict[str, Any]) -> list[str]:
    said = []
    for row in compare(found):
        fast = f"- {row['road']}: {row['times_as_fast']:.1f} times as fast as the released procedure"
        if row["road"] == "ours":
            fast += f" (wanted ≥ {FASTER:g}: {'met' if row['times_as_fast'] >= FASTER else 'NOT MET'})"
        said.append(
            f"{fast}; by CPU time, which other processes do not lengthen, {row['times_as_fast_cpu']:.1f} times."
        )
        for name in ("alpha", "beta"):
            if name in row:
                lies = "lies" if all(row[name].values()) else "does NOT lie"
                said.append(f"- {row['road']}: {SYMBOLS[name]} of each {lies} within the other's interval.")
    return said


def draw(frames: dict[str, pd.DataFrame], found: dict[str, Any]) -> Any:
    """Left: final losses of the cells that two roads have run. Right: how long each road took."""
    made = style.figure(10.4, 4.4)
    left, right = made.subplots(1, 2, width_ratios=(1.15, 1))
    _losses(left, frames)
    roads = list(found)
    seconds = [found[road]["seconds"] for road in roads]
    bars = right.barh(range(len(roads)), seconds, color=[COLOURS[road] for road in roads], height=0.55)
    labels = [f"{value:.0f} s, {found[road]['cells']} cells" for road, value in zip(roads, seconds, strict=True)]
    right.bar_label(bars, labels, padding=4, fontsize=9)
    right.set_yticks(range(len(roads)), [WORDS[road].replace(", ", "\n") for road in roads], fontsize=9)
    right.invert_yaxis()
    right.set_xlim(0, 1.35 * max(seconds))
    right.set_xlabel("makespan of the grid  (seconds, one core)")
    right.set_title("How long it takes")
    style.grid(right)
    right.grid(False, axis="y")
    return made


def _losses(axes: Any, frames: dict[str, pd.DataFrame]) -> None:
    key = ["rank", "length"]
    one, other = ("ours" if "ours" in frames else next(iter(frames))), list(frames)[-1]
    both = frames[one].merge(frames[other], on=key, suffixes=("_y", "_x"))
    both = both[(both["loss_final_x"] > 0) & (both["loss_final_y"] > 0)]
    for rank, colour in style.rank_colours(sorted(both["rank"].unique())).items():
        cells = both[both["rank"] == rank]
        axes.scatter(cells["loss_final_x"], cells["loss_final_y"], s=34, color=colour, label=f"{rank}", alpha=0.85)
    values = np.concatenate([both["loss_final_x"], both["loss_final_y"], [SATURATED]])
    span = 0.8 * values.min(), 1.25 * values.max()
    axes.plot(span, span, color=style.MUTED, lw=0.8, zorder=0)
    axes.axvline(SATURATED, color=style.MUTED, lw=0.8, ls=":", zorder=0)
    axes.annotate(" ln 2", (SATURATED, span[0]), fontsize=8.5, color=style.MUTED, va="bottom")
    axes.set(xscale="log", yscale="log", xlim=span, ylim=span)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=[1.0, 2.0, 5.0]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"final loss, {WORDS[other].split(',')[0]}  (nats)")
    axes.set_ylabel(f"final loss, {WORDS[one].split(',')[0]}  (nats)")
    axes.set_title("What each cell ends at")
    axes.legend(title="rank", frameon=False, fontsize=8.5, title_fontsize=9, ncols=2, loc="upper left")
    style.grid(axes)
