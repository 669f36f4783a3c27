"""Which runs the law is fitted to: saturated cells no longer follow it, for ΔL cannot exceed the initial loss.

Dropping runs by their own final loss (the paper's way) keeps the lucky and drops the unlucky runs of the cells near the
threshold: the response is truncated and α comes out too small. Dropping whole cells by what the law itself predicts for
them does not look at the noise (PAPER.md, section 7; `tests/analysis/test_calibration.py` measures both).

A filter is a function from a checked frame and a way to fit to a `Selection`; the fit then uses the selected runs. The
third way, `tobit`, drops nothing and is in `fit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from memlaw_jax.analysis.cells import SATURATED, Cells, gather
from memlaw_jax.analysis.law.least_squares import Estimate
from memlaw_jax.errors import UserError

MAX_ROUNDS = 50
Fit = Callable[[pd.DataFrame], Estimate]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Kept runs (one flag a row of the frame) and, for each cell without any, why it was dropped.

    `rounds` counts the fits that it took; `settled` is False when the set went round in circles, and then the cells
    that came and went are among the dropped.
    """

    kept: Bool[np.ndarray, " runs"]
    reasons: dict[tuple[int, int], str]
    rounds: int = 0
    settled: bool = True


def select(frame: pd.DataFrame, name: str, fit: Fit) -> Selection:
    """Apply a filter by name. Raises `UserError` for an unknown name, or when the cells left cannot be fitted."""
    return FILTERS[checked_filter(name)](frame, fit)


def checked_filter(name: str) -> str:
    """The name of a filter, or `UserError`."""
    if name not in FILTERS:
        raise UserError(f"filter is {name!r}; choose one of {', '.join(FILTERS)}")
    return name


def paper(frame: pd.DataFrame, fit: Fit) -> Selection:
    """Run by run, as the release does: keep L_final > ln 2. For comparison only; it biases α down."""
    kept = frame["loss_final"].to_numpy() > SATURATED
    whole, left = gather(frame), set(gather(frame[kept]).key)
    reasons = {
        key: f"every run ended at or below ln 2 (mean final loss {final:.3g})"
        for key, final in zip(whole.key, whole.final, strict=True)
        if key not in left
    }
    return Selection(kept=kept, reasons=reasons)


def predicted(frame: pd.DataFrame, fit: Fit) -> Selection:
    """Whole cells, by the fitted law: keep mean L_initial − predicted ΔL > ln 2, fit again until the set stands still.

    Starts from the cells whose mean final loss is above ln 2. A set that comes back after others is a cycle: cells that
    are in some of its sets only sit on the threshold to within the fit's own error, and are dropped.
    """
    cells = gather(frame)
    used = cells.final > SATURATED
    visited: list[np.ndarray] = []
    swinging = np.zeros(len(cells), bool)
    for _ in range(MAX_ROUNDS):
        visited.append(used)
        final = cells.initial - fit(frame[_runs_of(frame, cells, used)]).predict(cells.rank, cells.length)
        wanted = final > SATURATED
        if np.array_equal(wanted, used):
            break
        again = [i for i, before in enumerate(visited) if np.array_equal(before, wanted)]
        if again or len(visited) == MAX_ROUNDS:
            cycle = visited[again[0] if again else -2 :]
            used = np.logical_and.reduce(cycle)
            swinging = np.logical_or.reduce(cycle) & ~used
            break
        used = wanted
    reasons = {}
    for key, keep, swings, value in zip(cells.key, used, swinging, final, strict=True):
        if not keep:
            edge = "on the threshold, in and out as the fit is repeated: " if swings else ""
            reasons[key] = f"{edge}predicted final loss {value:.3g} against ln 2 = 0.693"
    kept = _runs_of(frame, cells, used)
    return Selection(kept=kept, reasons=reasons, rounds=len(visited), settled=not swinging.any())


def _runs_of(frame: pd.DataFrame, cells: Cells, used: Bool[np.ndarray, " K"]) -> Bool[np.ndarray, " runs"]:
    """The runs of these cells."""
    keys = {key for key, keep in zip(cells.key, used, strict=True) if keep}
    return np.array([key in keys for key in zip(frame["rank"], frame["length"], strict=True)], bool)


FILTERS: dict[str, Callable[[pd.DataFrame, Fit], Selection]] = {"predicted": predicted, "paper": paper}
