"""The search for the cheapest sweep: over grids, of all subsets where they are few, else by exchange; and over any set.

A grid is a subset of the candidate ranks × a subset of the lengths, less the cells that are no candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool

from memlaw_jax.analysis.planning.design_table import FEWEST_LEVELS, Scores, Table

_EXHAUSTIVE = 16  # ranks and lengths together: 2¹⁶ grids are looked at in a tenth of a second

_Objective: TypeAlias = Callable[[Scores], np.ndarray]
_States: TypeAlias = Callable[[np.ndarray], np.ndarray]


def best_grid(table: Table, wanted: float, max_seeds: int) -> tuple[Bool[np.ndarray, " K"] | None, float]:
    """The cheapest grid for the wanted width as a mask over the cells, or None; and the least width of any grid."""
    width, guide, compute = _objectives(max_seeds)
    R, N = len(table.ranks), len(table.lengths)
    if min(R, N) < FEWEST_LEVELS:
        return None, math.inf

    def to_masks(states: np.ndarray) -> np.ndarray:
        return table.grids(states[:, :R], states[:, R:])

    if R + N <= _EXHAUSTIVE:
        states = ((np.arange(2 ** (R + N))[:, None] >> np.arange(R + N)) & 1).astype(bool)
        states = states[(states[:, :R].sum(1) >= FEWEST_LEVELS) & (states[:, R:].sum(1) >= FEWEST_LEVELS)]
        found, least = [], math.inf
        for part in np.array_split(states, max(len(states) // 8192, 1)):
            scores = table.scores(to_masks(part), wanted)
            values = compute(scores)
            k = int(np.argmin(values))
            least = min(least, float(width(scores).min(initial=math.inf)))
            found.append((float(values[k]), part[k]))
        value, state = min(found, key=lambda pair: pair[0])
        return (to_masks(state[None])[0] if math.isfinite(value) else None), least

    groups = (np.arange(R), R + np.arange(N))

    def moves(state: np.ndarray) -> np.ndarray:
        return _toggles(state, groups, 1200)

    starts = np.array([
        np.concatenate([_spread(R, a), _spread(N, b)])
        for a in range(FEWEST_LEVELS, R + 1)
        for b in range(FEWEST_LEVELS, N + 1)
    ])  # fmt: skip
    scores = table.scores(to_masks(starts), wanted)
    narrowest = starts[int(np.argmin(width(scores)))]
    best, least = _descend(table, narrowest, wanted, width, to_masks, moves)
    order = np.argsort(guide(scores), kind="stable")[:6]
    chosen = [*starts[order[np.isfinite(guide(scores)[order])]], *([best] if least <= wanted else [])]
    ends = []
    for start in chosen:
        guided, _ = _descend(table, start, wanted, guide, to_masks, moves)
        ends += [_descend(table, s, wanted, compute, to_masks, moves) for s in (guided, start)]
    state, value = min(ends, key=lambda end: end[1], default=(None, math.inf))
    return (to_masks(state[None])[0] if state is not None and math.isfinite(value) else None), least


def best_cells(table: Table, grid: Bool[np.ndarray, " K"], wanted: float, max_seeds: int) -> Bool[np.ndarray, " K"]:
    """A set of cells, no grid, at least as cheap as `grid`, by exchange from there."""
    _, guide, compute = _objectives(max_seeds)

    def same(states: np.ndarray) -> np.ndarray:
        return states

    def moves(state: np.ndarray) -> np.ndarray:
        return _toggles(state, (np.arange(len(table)),), 500)

    guided = _descend(table, grid, wanted, guide, same, moves)[0]
    ends = [_descend(table, start, wanted, compute, same, moves) for start in (grid, guided)]
    return min(ends, key=lambda end: end[1])[0]


def _objectives(max_seeds: int) -> tuple[_Objective, _Objective, _Objective]:
    """Width at the most seeds; compute if seeds came in fractions (a smooth guide); compute itself."""

    def guide(s: Scores) -> np.ndarray:
        return s.cost * np.minimum(s.seeds, max_seeds) + np.where(s.seeds <= max_seeds, 0.0, np.inf)

    def compute(s: Scores) -> np.ndarray:
        seeds = s.whole_seeds
        return s.cost * np.where(seeds <= max_seeds, seeds, 1.0) + np.where(seeds <= max_seeds, 0.0, np.inf)

    return lambda s: s.least(max_seeds), guide, compute


def _descend(
    table: Table,
    start: np.ndarray,
    wanted: float,
    objective: _Objective,
    to_masks: _States,
    moves: _States,
) -> tuple[np.ndarray, float]:
    """Take the best exchange until none helps."""
    best = float(objective(table.scores(to_masks(start[None]), wanted))[0])
    while True:
        around = moves(start)
        values = objective(table.scores(to_masks(around), wanted))
        k = int(np.argmin(values))
        if not values[k] < best * (1 - 1e-9):
            return start, best
        start, best = around[k], float(values[k])


def _toggles(state: np.ndarray, groups: Sequence[np.ndarray], pairs: int) -> np.ndarray:
    """Every state that differs in one entry, and those that differ in two where that makes at most `pairs`."""
    flips = np.eye(len(state), dtype=bool)
    rows = [flips]
    if len(state) * (len(state) - 1) // 2 <= pairs:
        first, second = np.triu_indices(len(state), 1)
        rows.append(flips[first] ^ flips[second])
    else:  # exchanges within a group only: one in, one out
        for group in groups:
            inside, outside = group[state[group]], group[~state[group]]
            if len(inside) * len(outside) <= pairs:
                a, b = (x.ravel() for x in np.meshgrid(inside, outside))
                rows.append(flips[a] ^ flips[b])
    return state ^ np.concatenate(rows)


def _spread(count: int, wanted: int) -> np.ndarray:
    """`wanted` of `count` places, evenly, both ends among them."""
    chosen = np.zeros(count, bool)
    chosen[np.round(np.linspace(0, count - 1, wanted)).astype(int)] = True
    return chosen
