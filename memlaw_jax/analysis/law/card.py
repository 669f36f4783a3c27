"""The fit card: how a law was fitted, in the terms that the scaling-law literature asks papers to report."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.law import censored, robust, varpro
from memlaw_jax.analysis.law.least_squares import FORM, FRAGILE, REPORTED, WIDE
from memlaw_jax.analysis.law.problem import FEWEST_CELLS, PARAMETERS

if TYPE_CHECKING:
    from memlaw_jax.analysis.law.law import Law

_FILTERS = {
    "predicted": "whole cells whose predicted final loss (mean initial loss minus the law) is above the threshold, "
    "iterated to a fixed point from the cells whose mean final loss is",
    "tobit": "every run; one that ended at or below the threshold says only that delta_loss is at least loss_initial - "
    "ln 2 (right-censored normal likelihood)",
    "paper": "single runs whose own final loss is above the threshold (biases alpha down; for comparison)",
}
_LOSSES = {
    "squared": "sum over runs of squared misfit of delta_loss, nats squared",
    "huber": f"Huber's loss of the misfit of single runs, k = {robust.K} robust standard deviations (1.4826 MAD), "
    "weights and scale taken anew in every resample",
    "censored": "negative log-likelihood of single runs, normal noise, censored where a run saturated",
}
_METHODS = {
    "squared": "variable projection over (alpha, beta), Levenberg-Marquardt with Kaufman's Jacobian",
    "huber": "iteratively re-weighted variable projection",
    "censored": "damped Newton over (alpha, beta, c/sigma, b/sigma, 1/sigma)",
}
_TOLERANCES = {
    "squared": f"cosine of residual and tangents below {varpro.ORTHOGONAL:g}",
    "huber": f"change of an exponent below {robust.SETTLED:g} between rounds of re-weighting",
    "censored": f"a promised gain of the log-likelihood below {censored.GAIN:g} nats",
}
_STARTS = {"squared": len(varpro.GRID), "huber": len(varpro.GRID), "censored": len(censored.COARSE)}


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
        "loss": _LOSSES[law.loss],
        "weights": "each run counts once, so a cell mean counts by its number of used runs",
        "optimiser": {
            "method": _METHODS[law.loss],
            "box": {"alpha": list(varpro.BOUNDS), "beta": list(varpro.BOUNDS)},
            "tolerance": _TOLERANCES[law.loss],
            "converged": law.flags.converged,
            "at_bound": law.flags.at_bound,
        },
        "starts": f"grid of {_STARTS[law.loss]} x {_STARTS[law.loss]} (alpha, beta), even in the square root, the rest "
        "solved at each point; the lowest local minima polished, the deepest taken",
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
        "jackknife_standard_errors": None
        if law.jackknife is None
        else {"by_cell": law.jackknife.cells, "by_rank": law.jackknife.ranks},
        "profile_intervals": {profile.name: [profile.low, profile.high] for profile in law.profiles},
        "tests": [
            {"hypothesis": test.name, "statistic": test.statistic, "df": list(test.df), "p": test.p}
            for test in law.tests
        ],
        "rivals": None
        if law.rivals is None
        else [
            {
                "form": entry.formula,
                "parameters": entry.k,
                "delta_aicc": entry.delta_aicc,
                "heldout_rmse": entry.heldout,
            }
            for entry in law.rivals.entries
        ],
        "outliers_suspected": law.flags.outliers_suspected,
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
