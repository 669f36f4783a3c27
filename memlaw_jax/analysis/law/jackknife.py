"""Jackknife errors: how far the law moves when a cell, or every cell of a rank, is left out.

Without a cell, n times: SE² = (n − 1)/n Σ (θ₍ᵢ₎ − mean)² (Efron and Stein 1981). Ranks are few but whole curves; an
error by ranks that is well above the one by cells says that the law bends differently at different ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memlaw_jax.analysis.law.bootstrap import parameters
from memlaw_jax.analysis.law.least_squares import REPORTED, unreferenced
from memlaw_jax.analysis.law.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Jackknife:
    """Standard errors of C, c_ref, α, β and b; None where a law without one of the units cannot be fitted."""

    cells: dict[str, float | None]
    ranks: dict[str, float | None]


def jackknife(problem: Problem, rank_ref: float, length_ref: float) -> Jackknife:
    """Refits without each cell and without each rank."""
    rows = problem.weight > 0 if problem.saturated is None else (problem.weight > 0) & ~problem.saturated
    cells = np.unique(problem.cell[rows])
    rank = np.full(problem.cells, np.nan)
    rank[problem.cell] = problem.u
    known = {
        "cells": [np.arange(problem.cells) != cell for cell in cells],
        "ranks": [rank != value for value in np.unique(rank[cells])],
    }
    return Jackknife(**{name: _errors(problem, np.array(kept), rank_ref, length_ref) for name, kept in known.items()})


def _errors(problem: Problem, kept: np.ndarray, rank_ref: float, length_ref: float) -> dict[str, float | None]:
    if not problem.identifies(kept).all():
        return dict.fromkeys(REPORTED)
    rows = parameters(problem.solve(kept.astype(float)))
    if not np.isfinite(rows).all():
        return dict.fromkeys(REPORTED)
    c_ref, alpha, beta, b = rows.T
    found = {"C": unreferenced(c_ref, alpha, beta, rank_ref, length_ref)}
    found |= {"c_ref": c_ref, "alpha": alpha, "beta": beta, "b": b}
    n = len(rows)
    return {name: float(np.sqrt((n - 1) * found[name].var())) for name in REPORTED}
