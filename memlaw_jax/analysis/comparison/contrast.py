"""How two laws of the same cells differ, with intervals that know that the cells are shared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memlaw_jax.analysis.law.bootstrap import joint_replicates
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.problem import Problem

PARAMETERS = ("alpha", "beta", "b", "c_ref")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """B − A of one parameter: the two values (b and c_ref in nats), their difference and its 95 % interval."""

    a: float
    b: float
    difference: float
    low: float | None
    high: float | None


def contrast(a: Law, b: Law, replicates: int, seed: int) -> dict[str, Contrast]:
    """Differences of α, β, b and c_ref between two laws fitted to the same cells (each using those its filter keeps).

    The cells used by either law are resampled together and both laws refitted to every draw, so what the choice of
    cells does to both cancels. `c_ref` = ΔL − b of both is taken at one reference cell, the geometric mean of those
    cells. No intervals with `replicates` = 0. Raises `UserError` when hardly any resample can be fitted.
    """
    pairs = [(x, y) for x, y in zip(a.cells, b.cells, strict=True) if x.used or y.used]
    ranks, lengths = (np.array([getattr(x, name) for x, _ in pairs], float) for name in ("rank", "length"))
    reference = [float(np.exp(np.log(values).mean())) for values in (ranks, lengths)]
    problems = [
        Problem(
            kind="squared",
            u=np.log(ranks / reference[0]),
            v=np.log(lengths / reference[1]),
            y=np.array([pair[side].delta for pair in pairs]),
            weight=np.array([float(pair[side].runs_used) for pair in pairs]),
            cell=np.arange(len(pairs)),
            cells=len(pairs),
            warm=(law.alpha, law.beta),
        )
        for side, law in enumerate((a, b))
    ]
    values = [
        {"alpha": law.alpha, "beta": law.beta, "b": law.b, "c_ref": law.predict(*reference) - law.b} for law in (a, b)
    ]
    ends: dict[str, tuple[float, float] | tuple[None, None]] = dict.fromkeys(PARAMETERS, (None, None))
    if replicates:
        rows, _ = joint_replicates(problems, replicates=replicates, seed=seed)
        apart = rows[:, 1] - rows[:, 0]
        low, high = np.percentile(apart, [2.5, 97.5], axis=0).tolist()
        ends = {name: (low[i], high[i]) for i, name in enumerate(("c_ref", "alpha", "beta", "b"))}
    return {
        name: Contrast(
            a=values[0][name],
            b=values[1][name],
            difference=values[1][name] - values[0][name],
            low=ends[name][0],
            high=ends[name][1],
        )
        for name in PARAMETERS
    }
