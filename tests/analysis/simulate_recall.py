"""Simulated sweeps that also recall: `simulate.py` with a known recall curve over the true headroom."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from memlaw_jax.analysis import Law, fit_law
from memlaw_jax.analysis.cells import gather
from memlaw_jax.analysis.law.bootstrap import cell_bootstrap
from memlaw_jax.analysis.law.problem import of_cells

from .simulate import BASE, Design, simulate

INTERCEPT, SLOPE = -2.0, 6.0
PER_RANK = 512
EXPOSURES = 200


def with_recall(design: Design = BASE, s: int = 0, *, single: bool = False, spread: float = 0.4) -> pd.DataFrame:
    """Records of samples of 10 tokens, 40 tokens a step; or of one text a cell, all of it a step.

    `spread` is the standard deviation, in logits, that samples of one cell share; half of it those of one run.
    """
    frame, rng = simulate(design, s), np.random.default_rng([s, 7, 2026])
    h = np.log((design.mean(frame["rank"], frame["length"]) - design.b) / (design.initial - design.b))
    cell = frame.groupby(["rank", "length"]).ngroup().to_numpy()
    shared = spread * rng.standard_normal(cell.max() + 1)[cell] + spread / 2 * rng.standard_normal(len(frame))
    samples = np.ones(len(frame), int) if single else (frame["length"] // 10).to_numpy()
    chance = expit(INTERCEPT + SLOPE * h + (0.0 if single else shared))
    return frame.assign(
        exact_match=rng.binomial(samples, chance) / samples,
        samples=samples,
        steps=EXPOSURES if single else frame["length"] * EXPOSURES // 40,
        token_visits=frame["length"] * EXPOSURES,
        effective_parameters=frame["rank"] * PER_RANK,
    )


def true_rank(design: Design, tokens: int, recall: float) -> int:
    """The smallest rank that this recall takes under the truth."""
    headroom = (logit(recall) - INTERCEPT) / SLOPE
    part = (design.initial - design.b) * math.exp(headroom)
    return math.ceil((part / design.C * tokens**design.beta) ** (1 / design.alpha))


def quick_law(frame: pd.DataFrame, draws: int = 100) -> Law:
    """What a plan needs of `fit_law`: the law and its draws, without the rest of the evidence."""
    law = fit_law(frame, bootstrap=0)
    used = {(cell.rank, cell.length) for cell in law.used}
    kept = [key in used for key in zip(frame["rank"], frame["length"], strict=True)]
    problem = of_cells(gather(frame[kept]), law.rank_ref, law.length_ref)
    problem = dataclasses.replace(problem, warm=(law.alpha, law.beta))
    return dataclasses.replace(law, draws=cell_bootstrap(problem, replicates=draws, seed=0))
