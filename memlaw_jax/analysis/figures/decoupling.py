"""Loss beside recall over the grid rank × length: how low the loss may be while nothing is recalled (PAPER.md, 1)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.figures.heat import METRICS, Grid, Metric, draw_grid, legend
from memlaw_jax.analysis.tokens.microscope import Microscope


def _share(column: str, title: str, unit: str) -> Metric:
    return Metric(name=column, column=column, title=title, unit=unit, palette="viridis", bounded=True)


_LOSS = METRICS[0]
_SHARES = (
    _share("token_accuracy", "Token accuracy, teacher-forced", "% of answer tokens"),
    _share("token_accuracy_free", "Token accuracy, free-running", "% of answer tokens"),
    _share("recalled", "Exact match", "% of samples"),
)


def draw_decoupling(found: Microscope, method: str) -> Figure:
    """Cell means side by side: final loss, token accuracy given the true text, and free-running where it was decoded,
    and exact match (free-running where decoded, else as teacher forcing has it)."""
    runs = found.runs[found.runs["method"] == method]
    frame = runs.assign(recalled=runs["exact_match_free"].fillna(runs["exact_match"]))
    frame.attrs["diverged"] = tuple(run for run in found.diverged if run.get("method", method) == method)
    metrics = [_LOSS, *(metric for metric in _SHARES if frame[metric.column].notna().any())]
    grid = Grid.of(frame)
    width, height = 1.9 + 0.62 * max(len(grid.lengths), 4), grid.size()[1]
    rows, columns = (1, len(metrics)) if width * len(metrics) <= 24 else (2, (len(metrics) + 1) // 2)
    with style.look():
        made = style.figure(width * columns, height * rows + 0.45)
        panels = made.subplots(rows, columns, squeeze=False)
        missing = [
            draw_grid(made, axes, frame, metric, grid) for axes, metric in zip(panels.flat, metrics, strict=False)
        ]
        for spare in panels.flat[len(metrics) :]:
            spare.remove()
        for axes in panels[:, 1:].flat:
            axes.set_ylabel("")
        made.suptitle(_title(method, runs), x=0.012, ha="left", fontsize=12.5)
        legend(made, bool(grid.below.any()), any(missing))
    return made


def _title(method: str, runs: pd.DataFrame) -> str:
    low = int(runs["decoupled"].sum())
    said = "run has" if low == 1 else "runs have"
    return f"Loss and recall: {style.plain(method)}; {low} of {len(runs)} {said} a low loss and recall nothing"
