"""The fit card: how a law was fitted, in the terms that the scaling-law literature asks papers to report."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from memlaw_jax.analysis import varpro
from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.least_squares import FEWEST_CELLS, FORM, FRAGILE, PARAMETERS, REPORTED, WIDE

if TYPE_CHECKING:
    from memlaw_jax.analysis.law import Law

_FILTERS = {
    "predicted": "whole cells whose predicted final loss (mean initial loss minus the law) is above the threshold, "
    "iterated to a fixed point from the cells whose mean final loss is",
    "paper": "single runs whose own final loss is above the threshold (biases alpha down; for comparison)",
}


def fit_card(law: Law) -> dict[str, Any]:
    """Form, data, filter, loss, optimiser, starts, weights, intervals, quality, versions and date, as JSON types."""
    used, dropped = law.used, law.dropped
    return {
        "form": {
            "law": FORM,
            "delta_loss": "loss_initial - loss_final, nats per answer token",
            "free_parameters": ["C", "alpha", "beta", "b"],
            "parameters": PARAMETERS,
        },
        "data": {
            "source": list(law.source),
            "method": law.method,
            "ranks": sorted({cell.rank for cell in law.cells}),
            "lengths": sorted({cell.length for cell in law.cells}),
            "cells": len(law.cells),
            "runs": sum(cell.runs for cell in law.cells),
            "cells_used": len(used),
            "runs_used": sum(cell.runs_used for cell in used),
            "runs_diverged_and_left_out": law.diverged,
            "dropped": [{"rank": cell.rank, "length": cell.length, "reason": cell.reason} for cell in dropped],
            "seeds_per_cell": {str(n): count for n, count in sorted(Counter(c.runs for c in law.cells).items())},
            "notes": list(law.notes),
        },
        "filter": {
            "name": law.filter,
            "keeps": _FILTERS.get(law.filter, law.filter),
            "threshold_nats": SATURATED,
            "fewest_cells": FEWEST_CELLS,
            "settled": law.flags.filter_settled,
        },
        "loss": "sum over runs of squared misfit of delta_loss, nats squared (no robust loss)",
        "weights": "each cell mean counts by its number of used runs",
        "optimiser": {
            "method": "variable projection over (alpha, beta), Levenberg-Marquardt with Kaufman's Jacobian",
            "box": {"alpha": list(varpro.BOUNDS), "beta": list(varpro.BOUNDS)},
            "tolerance": f"cosine of residual and tangents below {varpro.ORTHOGONAL:g}",
            "converged": law.flags.converged,
            "at_bound": law.flags.at_bound,
        },
        "starts": f"grid of {len(varpro.GRID)} x {len(varpro.GRID)} (alpha, beta), even in the square root; up to "
        f"{varpro.MAX_VALLEYS} local minima polished, the deepest taken",
        "intervals": None
        if law.draws is None
        else {
            "method": "cell bootstrap, percentile; a cell is a (rank, length) with all its seeds; filter's set fixed",
            "level": 0.95,
            "replicates": len(law.draws),
            "redrawn": law.draws.redrawn,
            "seed": law.draws.seed,
            **{name: list(law.interval(name)) for name in REPORTED},
        },
        "identification": {
            "weakly_identified": law.flags.weakly_identified,
            "rule": f"a 95 % interval of an exponent wider than {WIDE:g} times it, or a design that lets noise of 1 % "
            f"of the range of delta_loss move it by over {FRAGILE:.1%}",
        },
        "estimates": {name: getattr(law, name) for name in (*REPORTED, "rank_ref", "length_ref")},
        "quality": {
            "on": "means of the used cells",
            "rmse_nats": law.rmse,
            "rmse_over_range": law.rmse_relative,
            "aicc": law.aicc,
            "r2": law.r2,
            "mape": law.mape,
            "seed_sd_nats": law.seed_sd,
        },
        "versions": dict(law.versions),
        "date": law.created,
    }
