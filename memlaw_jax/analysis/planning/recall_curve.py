"""The measured recall curve: the share of samples recalled word for word, against the headroom that a law predicts.

Headroom h = ln[(ΔL̂ − b) / (L_initial − b)] = α ln(r / r₀(ℓ)): the logarithm of what the adapter is predicted to learn
over what must be learned before nothing is left to learn. It is 0 where the predicted final loss is zero, r₀(ℓ) is the
rank there, and positive headroom is spare capacity. It orders the cells of one L_initial as their predicted final loss
does, but it is linear in ln r, and so is the logit of recall where we have measured it finely (PhoneBook, one length,
ranks 8 to 32: benchmarks/results/). A curve that is linear in the predicted loss itself would bend the other way, and
promise a recall of 0.99 at too small a rank.

The curve is a logistic regression with Firth's penalty (Biometrika 80, 1993: half the log determinant of the
information is added to the log likelihood), which has a finite answer where small ranks recall nothing and larger ones
everything, as a single text always has it. A slope below zero is set to zero, so recall never falls with rank.

Samples of one cell share an adapter and fail together, so they are not so many independent trials. Their number is
divided by a dispersion, Pearson's, never so much that a cell would count for less than one trial; and it is cells that
the planner resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit

ROUNDS = 60
HALVINGS = 12
FARTHEST = 3.0  # standardised units that one step may go
SETTLED = 1e-8


@dataclass(frozen=True, kw_only=True)
class RecallCurve:
    """recall(h) = 1 / (1 + exp(−(intercept + slope · h))), slope ≥ 0, h the headroom (no unit).

    `cells` were measured, from a recall of `lowest` to one of `highest`; `separated` says that no cell had a recall
    between 0 and 1 and that a headroom parts those with 0 from those with 1: where the curve crosses is then known, how
    steeply is not. `dispersion` ≥ 1 divides the number of samples.
    """

    intercept: float
    slope: float
    dispersion: float
    cells: int
    lowest: float
    highest: float
    separated: bool

    def at(self, headroom: float) -> float:
        """The share of samples recalled."""
        return float(expit(self.intercept + self.slope * headroom))


def fit_curve(
    x: Float[np.ndarray, " K"], share: Float[np.ndarray, " K"], trials: Float[np.ndarray, " K"]
) -> RecallCurve:
    """The curve through K cells with headroom `x`, of whose `trials` samples a `share` was recalled."""
    spread = dispersion(x, share, trials)
    intercept, slope = firth(x[None], share, trials[None] / spread)
    none, every = x[share == 0], x[share == 1]
    parted = len(none) + len(every) == len(x) and (not len(none) or not len(every) or none.max() < every.min())
    return RecallCurve(
        intercept=float(intercept[0]),
        slope=float(slope[0]),
        dispersion=spread,
        cells=len(x),
        lowest=float(share.min()),
        highest=float(share.max()),
        separated=bool(parted),
    )


def headroom_for(
    recall: float, intercept: Float[np.ndarray, " M"], slope: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """The headroom at which these curves reach a recall; infinite where one is flat below it."""
    missing = logit(recall) - intercept
    with np.errstate(divide="ignore", invalid="ignore"):
        found = missing / slope
    return np.where(slope > 0, found, np.where(missing <= 0, -np.inf, np.inf))


def dispersion(x: Float[np.ndarray, " K"], share: Float[np.ndarray, " K"], trials: Float[np.ndarray, " K"]) -> float:
    """Pearson's χ² over its degrees of freedom, between 1 and the mean number of trials of a cell."""
    if len(x) < 3:
        return 1.0
    intercept, slope = firth(x[None], share, trials[None])
    # No share is known better than to half a sample, so one unexpected sample in a far cell does not rule the sum.
    p = np.clip(expit(intercept + slope * x), 0.5 / (trials + 1), 1 - 0.5 / (trials + 1))
    found = float((trials * (share - p) ** 2 / (p * (1 - p))).sum() / (len(x) - 2))
    return min(max(found, 1.0), max(float(trials.mean()), 1.0))


def firth(
    x: Float[np.ndarray, "M K"], share: Float[np.ndarray, " K"], trials: Float[np.ndarray, "M K"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Intercepts and slopes ≥ 0 of M penalised logistic regressions at once; rows differ in `x` and `trials`.

    A row whose cells with trials share one `x` gets slope 0.
    """
    total = trials.sum(axis=1)
    level = logit(((trials * share).sum(axis=1) + 0.5) / (total + 1))  # the penalised fit without a slope
    centre = (trials * x).sum(axis=1) / total
    scale = np.sqrt((trials * (x - centre[:, None]) ** 2).sum(axis=1) / total)
    varied = scale > 1e-9
    safe = np.where(varied, scale, 1.0)
    z = (x - centre[:, None]) / safe[:, None]
    found = np.stack([level, np.zeros_like(level)], axis=1)
    found[varied] = _climb(z[varied], share, trials[varied], found[varied])
    rising = varied & (found[:, 1] > 0)
    slope = np.where(rising, found[:, 1] / safe, 0.0)
    return np.where(rising, found[:, 0] - slope * centre, level), slope


def _climb(z: np.ndarray, share: np.ndarray, trials: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Fisher scoring on the penalised score, a step halved until the penalised likelihood does not fall."""
    here, value = start, _objective(z, share, trials, start)
    for _ in range(ROUNDS):
        p = expit(here[:, :1] + here[:, 1:] * z)
        weight = trials * p * (1 - p)
        i00, i01, i11 = weight.sum(axis=1), (weight * z).sum(axis=1), (weight * z * z).sum(axis=1)
        area = np.maximum(i00 * i11 - i01 * i01, 1e-300)
        leverage = weight * (i11[:, None] - 2 * i01[:, None] * z + i00[:, None] * z * z) / area[:, None]
        score = trials * (share - p) + leverage * (0.5 - p)
        s0, s1 = score.sum(axis=1), (score * z).sum(axis=1)
        step = np.stack([(i11 * s0 - i01 * s1) / area, (i00 * s1 - i01 * s0) / area], axis=1)
        step *= np.minimum(1.0, FARTHEST / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        for _ in range(HALVINGS):
            there = here + step
            reached = _objective(z, share, trials, there)
            worse = ~(reached >= value - 1e-12 * np.abs(value))
            if not worse.any():
                break
            step[worse] /= 2
        step[worse] = 0.0
        here = here + step
        value = np.where(worse, value, reached)
        if np.abs(step).max(initial=0.0) < SETTLED:
            break
    return here


def _objective(z: np.ndarray, share: np.ndarray, trials: np.ndarray, at: np.ndarray) -> np.ndarray:
    eta = at[:, :1] + at[:, 1:] * z
    p = expit(eta)
    weight = trials * p * (1 - p)
    area = weight.sum(axis=1) * (weight * z * z).sum(axis=1) - (weight * z).sum(axis=1) ** 2
    likelihood = (trials * (share * eta - np.logaddexp(0.0, eta))).sum(axis=1)
    return likelihood + 0.5 * np.log(np.maximum(area, 1e-300))
