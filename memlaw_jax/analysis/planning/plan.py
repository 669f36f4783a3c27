"""The rank that N tokens need at a wanted recall, from a law and the recall measured beside it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import numpy as np
from jaxtyping import Float

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.law.law import CellFit, Law
from memlaw_jax.analysis.planning import plan_words
from memlaw_jax.analysis.planning.plan_reach import (
    Budget,
    Observation,
    Reach,
    bracket,
    budget,
    parameters_per_rank,
    reach,
)
from memlaw_jax.analysis.planning.recall_curve import RecallCurve, firth, fit_curve, headroom_for
from memlaw_jax.errors import UserError

UNREACHABLE = 10**6  # a rank beyond this is no plan
_TINY = 1e-9


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What it takes to store `tokens` answer tokens so that a share `recall` of the samples comes back word for word.

    `single` says that every cell trained one text, so recall is the probability that a training run recalls its text.
    `goal` is "recall", or "final_loss" where no recall was measured (`why` says so): then `rank` is the rank at which
    the law predicts a final loss of ln 2 nats per answer token, which is less than recall. `rank` is the smallest whole
    rank that reaches the goal, and None where none up to a million does. `interval` is its 95 % percentile interval,
    ranks rounded up, over the law's bootstrap draws, each with the recall curve refitted to resampled cells; an upper
    end of None is beyond a million, and `unreachable` is the share of draws that are. Losses are in nats per answer
    token; a predicted final loss below zero is spare capacity. `rank_ln2` is the rank at a predicted final loss of
    ln 2, whatever the goal. Sizes are those of the adapter's numbers, without the file's header of about a kilobyte.

    `succeeded` is the smallest measured rank that reached the wanted recall on as many tokens or more, `failed` the
    largest that missed it on as many or fewer: what was measured, without any law.
    """

    tokens: int
    recall: float
    single: bool
    goal: Literal["recall", "final_loss"]
    why: str
    rank: int | None
    interval: tuple[int, int | None] | None
    draws: int
    unreachable: float
    rank_ln2: int | None
    predicted_recall: float | None
    loss_initial: float
    predicted_final: float | None
    effective_parameters: int | None
    bytes_float32: int | None
    bytes_bfloat16: int | None
    budget: Budget | None
    succeeded: Observation | None
    failed: Observation | None
    reach: Reach
    curve: RecallCurve | None
    warnings: tuple[str, ...]


def plan(law: Law, *, tokens: int, recall: float = 0.99, seed: int = 0) -> Plan:
    """The rank, size and training that `tokens` answer tokens need for a share `recall` of samples word for word.

    The law says how headroom grows with rank (`recall_curve.py`), the recall measured in all its cells, saturated ones
    included, what headroom a recall takes. `seed` draws the resampled cells. Where the cells say nothing of recall the
    goal is a weaker one, and the plan says so: see `Plan.goal`.

    Raises `UserError` for tokens below 1 or a recall that is not between 0 and 1.
    """
    tokens, recall = _checked(tokens, recall)
    known = [cell for cell in law.cells if cell.exact_match is not None]
    why = _nothing_known(law, known)
    initial = _initial(law, tokens)
    best, draws = _parameters(law)
    curve = None
    if why:
        log_need = _log_positive(initial - SATURATED - best[:, 3])
        log_needs = _log_positive(initial - SATURATED - draws[:, 3])
    else:
        curve, intercepts, slopes = _curves(law, known, best, draws, seed)
        line = np.array([curve.intercept]), np.array([curve.slope])
        log_need = headroom_for(recall, *line) + _log_positive(initial - best[:, 3])
        log_needs = headroom_for(recall, intercepts, slopes) + _log_positive(initial - draws[:, 3])
    rank = _whole(_rank(law, best, log_need, tokens)[0])
    ranks = np.sort(_rank(law, draws, log_needs, tokens))
    half = _whole(_rank(law, best, _log_positive(initial - SATURATED - best[:, 3]), tokens)[0])
    per_rank = parameters_per_rank(law.cells)
    size = round(per_rank * rank) if per_rank and rank else None
    succeeded, failed = bracket(known, tokens, recall)
    found = Plan(
        tokens=tokens,
        recall=recall,
        single=all(cell.samples == 1 for cell in law.cells),
        goal="final_loss" if why else "recall",
        why=why,
        rank=rank,
        interval=_interval(ranks),
        draws=len(draws),
        unreachable=float(np.mean(ranks > UNREACHABLE)) if len(ranks) else 0.0,
        rank_ln2=half,
        predicted_recall=curve.at(float(_headroom(law, best, rank, tokens, initial)[0])) if curve and rank else None,
        loss_initial=initial,
        predicted_final=initial - law.predict(rank, tokens) if rank else None,
        effective_parameters=size,
        bytes_float32=size and 4 * size,
        bytes_bfloat16=size and 2 * size,
        budget=budget(law.cells, tokens, rank or max(cell.rank for cell in law.cells)),
        succeeded=succeeded,
        failed=failed,
        reach=reach(law.cells, tokens, rank),
        curve=curve,
        warnings=(),
    )
    return dataclasses.replace(found, warnings=tuple(plan_words.warnings(found, law)))


def _checked(tokens: int, recall: float) -> tuple[int, float]:
    if isinstance(tokens, bool) or not isinstance(tokens, Integral) or tokens < 1:
        raise UserError(f"tokens is {tokens}; give the number of answer tokens to store, 1 or more")
    if isinstance(recall, bool) or not isinstance(recall, Real) or not 0 < recall < 1:
        raise UserError(f"recall is {recall}; give the share of samples wanted word for word, between 0 and 1, as 0.99")
    return int(tokens), float(recall)


def _nothing_known(law: Law, known: list[CellFit]) -> str:
    """Why no recall can be planned, and nothing where it can."""
    if not known:
        return "the results have no column exact_match"
    shares = {cell.exact_match for cell in known}
    if len(shares) > 1:
        return ""
    return f"all {len(known)} cells have a recall of {shares.pop():g}, which does not say how it depends on rank"


def _initial(law: Law, tokens: int) -> float:
    """The loss before training at this length, nats: linear in ln ℓ between measured lengths, constant beyond them."""
    lengths = sorted({cell.length for cell in law.cells})
    means = [np.mean([cell.loss_initial for cell in law.cells if cell.length == length]) for length in lengths]
    return float(np.interp(math.log(tokens), np.log(lengths), means))


def _parameters(law: Law) -> tuple[Float[np.ndarray, "1 4"], Float[np.ndarray, "M 4"]]:
    """(c_ref, α, β, b): the law's own, and its draws."""
    best = np.array([[law.c_ref, law.alpha, law.beta, law.b]])
    if law.draws is None:
        return best, np.empty((0, 4))
    return best, np.stack([law.draw(name) for name in ("c_ref", "alpha", "beta", "b")], axis=1)


def _curves(
    law: Law, known: list[CellFit], best: Float[np.ndarray, "1 4"], draws: Float[np.ndarray, "M 4"], seed: int
) -> tuple[RecallCurve, Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """The curve of the law itself, and the intercept and slope in every draw, through cells drawn with replacement.

    Whole cells are drawn, so a draw may lose all that recalled anything, and reach no rank. Weights that are never zero
    (Dirichlet) would hide that, and their intervals covered 0.87 to 0.93 in simulation where these cover 0.93 to 0.96.
    Without `samples` a run counts as one.
    """
    rank, length, initial, share, runs, samples = np.array(
        [(c.rank, c.length, c.loss_initial, c.exact_match, c.runs, c.samples or 1.0) for c in known], float
    ).T
    trials = runs * samples
    curve = fit_curve(_headroom(law, best, rank, length, initial)[0], share, trials)
    times = np.random.default_rng(seed).multinomial(len(known), np.full(len(known), 1 / len(known)), size=len(draws))
    lines = firth(_headroom(law, draws, rank, length, initial), share, times * trials / curve.dispersion)
    return curve, *lines


def _headroom(law: Law, parameters: Float[np.ndarray, "M 4"], rank, length, initial) -> Float[np.ndarray, " M *K"]:
    c_ref, alpha, beta, b = parameters.T if np.ndim(rank) == 0 else parameters.T[..., None]
    learned = np.log(c_ref) + alpha * np.log(rank / law.rank_ref) - beta * np.log(length / law.length_ref)
    return learned - _log_positive(initial - b)


def _rank(
    law: Law, parameters: Float[np.ndarray, "M 4"], log_need: Float[np.ndarray, " M"], tokens: int
) -> Float[np.ndarray, " M"]:
    """The rank, not rounded, whose learned part ΔL − b has this logarithm; infinite where no float is large enough."""
    c_ref, alpha, beta, _ = parameters.T
    missing = log_need - np.log(c_ref) + beta * math.log(tokens / law.length_ref)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        found = law.rank_ref * np.exp(missing / alpha)
    return np.where(np.isnan(found), np.inf, found)


def _log_positive(value):
    """ln, where the data leave something to learn; a draw whose b is all of the loss needs next to nothing."""
    return np.log(np.maximum(value, _TINY))


def _whole(rank: float) -> int | None:
    return None if not rank <= UNREACHABLE else max(1, math.ceil(rank * (1 - 1e-12)))


def _interval(ranks: Float[np.ndarray, " M"]) -> tuple[int, int | None] | None:
    """The outer order statistics beside the percentiles, since one may lie between a number and infinity."""
    if not len(ranks):
        return None
    low = _whole(float(np.percentile(ranks, 2.5, method="lower")))
    return (UNREACHABLE if low is None else low), _whole(float(np.percentile(ranks, 97.5, method="higher")))
