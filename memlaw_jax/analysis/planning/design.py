"""The cheapest sweep that would pin α down: which ranks, lengths and seeds, and a small pilot for the learning rate.

A proposal is one grid: a subset of the candidate ranks × a subset of the lengths × seeds, without the cells that the
law predicts to be saturated, which say nothing about it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.planning.design_basis import Basis, Cost, Noise, Recipe, Truth, basis, rounded, whole_numbers
from memlaw_jax.analysis.planning.design_pilot import Pilot, plan_pilot
from memlaw_jax.analysis.planning.design_search import best_cells, best_grid
from memlaw_jax.analysis.planning.design_table import FEWEST_CELLS, FEWEST_LEVELS, Pairs, Table, candidates
from memlaw_jax.errors import UserError

_MOST_DOUBLINGS = 3


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another sweep beside the proposed one; `width` of α's interval."""

    cells: int
    seeds: int
    width: float
    cost: float


@dataclass(frozen=True, kw_only=True)
class SweepDesign:
    """A proposed sweep. `cells` are (rank, length), each run with `seeds` seeds; widths are of 95 % intervals.

    `full` is the whole grid of candidates, saturated cells too, with the fewest seeds that give the wanted width (or
    with the most seeds, where none do). `unrestricted` is the best set of cells found that need not be a grid.
    `saturated` are the candidates left out for their predicted final loss, `unlearned` those for a predicted ΔL ≤ 0.
    `extrapolated` says, in sentences, where the design leaves the range that its law was measured on.
    """

    wanted: float
    width_alpha: float
    width_beta: float
    se_alpha: float
    se_beta: float
    ranks: tuple[int, ...]
    lengths: tuple[int, ...]
    seeds: int
    cells: Pairs
    cost: float
    unit: str
    full: Alternative
    unrestricted: Alternative
    candidates: int
    saturated: Pairs
    unlearned: Pairs
    pilot: Pilot
    recipe: Recipe
    truth: Truth
    noise: Noise
    cost_model: Cost
    assumptions: tuple[str, ...]
    extrapolated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        return dataclasses.asdict(self)

    def configs(self, **options: Any) -> dict[str, str]:
        """YAML texts for `memlaw sweep` by file name: `pilot.yaml`, then the sweep's (`design_configs.configs`)."""
        from memlaw_jax.analysis.planning.design_configs import configs

        return configs(self, **options)


def design_sweep(
    law: Law | None,
    *,
    width: float,
    ranks: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    max_seeds: int = 5,
) -> SweepDesign:
    """The cheapest sweep whose 95 % interval for α is expected to be no wider than `width`.

    Parameters, noise and compute come from `law`, or from stated defaults without one. Candidates are `ranks` and
    `lengths`, by default the law's own; an axis that is not given is doubled beyond the law's where its own range does
    not suffice, and the design then says that it extrapolates. Deterministic.

    Raises `UserError` for a width or a rank that is not positive, when too few candidates are unsaturated, and when no
    design reaches the width, with the one that can be reached.
    """
    if isinstance(width, bool) or not isinstance(width, Real) or not 0 < width < math.inf:
        raise UserError(f"width is {width}; give the wanted width of α's 95 % interval, such as 0.1")
    wanted = float(width)
    max_seeds = whole_numbers("max_seeds", [max_seeds])[0]
    on = basis(law)
    given = {name: _axis(name, x) for name, x in (("ranks", ranks), ("lengths", lengths)) if x is not None}
    within = math.inf
    for doublings in range(_MOST_DOUBLINGS + 1):
        table = candidates(
            on,
            given.get("ranks") or _doubled(on.ranks, doublings),
            given.get("lengths") or _doubled(on.lengths, doublings),
        )
        chosen, least = best_grid(table, wanted, max_seeds) if len(table) >= FEWEST_CELLS else (None, math.inf)
        within = within if doublings else least
        if chosen is not None or len(given) == 2:
            break
    if chosen is None:
        raise UserError(_refusal(wanted, max_seeds, table, least, given=bool(given)))
    why = (_why_doubled(law, within, max_seeds),) if doublings else ()

    def told(mask: np.ndarray) -> Alternative:
        scores = table.scores(mask[None], wanted)
        seeds = int(min(scores.whole_seeds[0], max_seeds))
        spent = rounded(float(scores.cost[0]) * seeds, 9)
        return Alternative(cells=int(mask.sum()), seeds=seeds, width=float(scores.widths(seeds)[0, 0]), cost=spent)

    best, full = told(chosen), told(np.ones(len(table), bool))
    scores = table.scores(chosen[None], wanted)
    widths, errors = (of(best.seeds)[0].tolist() for of in (scores.widths, scores.errors))
    total = len(table.ranks) * len(table.lengths)
    whole = float(sum(on.cost.of(rank, np.array(table.lengths)).sum() for rank in table.ranks)) * full.seeds
    cells = table.cells(chosen)
    used_ranks, used_lengths = (tuple(sorted({cell[k] for cell in cells})) for k in (0, 1))
    return SweepDesign(
        wanted=wanted,
        width_alpha=widths[0],
        width_beta=widths[1],
        se_alpha=errors[0],
        se_beta=errors[1],
        ranks=used_ranks,
        lengths=used_lengths,
        seeds=best.seeds,
        cells=cells,
        cost=best.cost,
        unit=on.cost.unit,
        full=dataclasses.replace(full, cells=total, cost=rounded(whole, 9)),
        unrestricted=told(best_cells(table, chosen, wanted, max_seeds)),
        candidates=total,
        saturated=table.saturated,
        unlearned=table.unlearned,
        pilot=plan_pilot(cells, on.recipe, on.cost),
        recipe=on.recipe,
        truth=on.truth,
        noise=on.noise,
        cost_model=on.cost,
        assumptions=on.assumptions,
        extrapolated=(*why, *(_extrapolated(on, used_ranks, used_lengths) if law else ())),
    )


def _axis(name: str, values: Sequence[int]) -> tuple[int, ...]:
    axis = whole_numbers(name, values)
    if len(axis) < FEWEST_LEVELS:
        listed = " and ".join(map(str, axis))
        raise UserError(f"{name} holds only {listed}; a design needs at least {FEWEST_LEVELS} {name} to choose from")
    return axis


def _doubled(axis: tuple[int, ...], times: int) -> tuple[int, ...]:
    """The axis with the doubles of its greatest and the whole halves of its least value, `times` over."""
    more = {axis[-1] * 2**k for k in range(1, times + 1)} | {axis[0] // 2**k for k in range(1, times + 1)} - {0}
    return tuple(sorted({*axis, *more}))


def _refusal(wanted: float, max_seeds: int, table: Table, least: float, *, given: bool) -> str:
    ranks, lengths = table.ranks, table.lengths
    where = f"ranks {ranks[0]} to {ranks[-1]} and lengths {lengths[0]} to {lengths[-1]}"
    widen = "give ranks or lengths over a wider range" if given else "set ranks and lengths yourself"
    if len(table) < FEWEST_CELLS:
        lost = f"{len(table.saturated)} of {len(ranks) * len(lengths)} would be saturated" + (
            f" and {len(table.unlearned)} would learn nothing" if table.unlearned else ""
        )
        return (
            f"{len(table)} candidate cells are left of {where} ({lost}) and a design takes {FEWEST_CELLS}; "
            "add smaller ranks or longer lengths"
        )
    if not math.isfinite(least):
        return f"every grid within {where} would be fitted weakly, whatever the seeds; {widen}"
    return (
        f"no sweep within {where} gives an interval on α of {wanted:g}: the best with {max_seeds} seeds gives "
        f"{math.ceil(1000 * least) / 1000:g}; {widen}, or ask for that width"
    )


def _why_doubled(law: Law | None, within: float, max_seeds: int) -> str:
    reach = f"reach {within:.3g} with {max_seeds} seeds" if math.isfinite(within) else "do not keep clear of a weak fit"
    whose = "default" if law is None else "law's own"
    return f"The {whose} ranks and lengths {reach}, so they were doubled."


def _extrapolated(on: Basis, ranks: tuple[int, ...], lengths: tuple[int, ...]) -> tuple[str, ...]:
    said = []
    for name, axis, known in (("rank", ranks, on.ranks), ("length", lengths, on.lengths)):
        for value, edge, factor in (
            (axis[-1], known[-1], axis[-1] / known[-1]),
            (axis[0], known[0], known[0] / axis[0]),
        ):
            if factor > 1:
                way = "beyond the greatest" if value > edge else "below the least"
                said.append(f"{name} {value} lies a factor of {factor:.3g} {way} {name} of the law ({edge}).")
    return tuple(said)
