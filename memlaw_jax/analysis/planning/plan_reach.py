"""What a plan takes from the measured cells without a law: sizes, steps, direct evidence, and how far away it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memlaw_jax.analysis.law.law import CellFit


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One measured cell and its recall: the mean over `runs` runs of `samples` samples each (None where unknown)."""

    rank: int
    length: int
    recall: float
    runs: int
    samples: float | None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Training as in the measured cell nearest in length, then in rank: each token seen `exposures` times.

    `whole` says that a step sees every token, as with a single text; otherwise a step sees `tokens_per_step`.
    """

    steps: int
    token_visits: int
    exposures: float
    tokens_per_step: float
    whole: bool
    like_rank: int
    like_length: int


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a plan lies from what was measured.

    `rank_factor` is the planned rank over the largest measured one where it is above it, over the smallest where it is
    below, and 1 between them; `tokens_factor` likewise. `inside` says whether (ln rank, ln tokens) lies in the convex
    hull of the measured cells; `nearest` is the (rank, length) measured nearest to it. Rank is None where a plan has
    none, and then so is what needs it.
    """

    rank_factor: float | None
    tokens_factor: float
    inside: bool | None
    nearest: tuple[int, int] | None


def parameters_per_rank(cells: Sequence[CellFit]) -> float | None:
    """Trained numbers for each unit of rank, the median over cells; None where the results do not say."""
    known = [cell.effective_parameters / cell.rank for cell in cells if cell.effective_parameters]
    return float(np.median(known)) if known else None


def mixed_sizes(cells: Sequence[CellFit]) -> bool:
    """Whether the cells' adapters differ in more than rank."""
    known = [cell.effective_parameters / cell.rank for cell in cells if cell.effective_parameters]
    return bool(known) and max(known) > 1.01 * min(known)


def budget(cells: Sequence[CellFit], tokens: int, rank: int) -> Budget | None:
    """Steps and token visits at the nearest cell's exposures per token; None where the results do not say."""
    known = [cell for cell in cells if cell.steps and cell.token_visits]
    if not known:
        return None
    like = min(known, key=lambda cell: (_apart(cell.length, tokens), _apart(cell.rank, rank)))
    assert like.steps and like.token_visits
    exposures = like.token_visits / like.length
    # One sample is one text, which every step sees whole, whatever its length.
    whole = like.samples == 1 or math.isclose(like.token_visits, like.steps * like.length, rel_tol=1e-6)
    a_step = float(tokens) if whole else like.token_visits / like.steps
    return Budget(
        steps=math.ceil(exposures * tokens / a_step - 1e-6),
        token_visits=math.ceil(exposures * tokens - 1e-6),
        exposures=exposures,
        tokens_per_step=a_step,
        whole=whole,
        like_rank=like.rank,
        like_length=like.length,
    )


def bracket(cells: Sequence[CellFit], tokens: int, recall: float) -> tuple[Observation | None, Observation | None]:
    """The smallest rank that reached `recall` on `tokens` or more, and the largest that missed it on as many or fewer.

    Of several lengths the one nearest to `tokens` is shown.
    """
    seen = [
        Observation(rank=c.rank, length=c.length, recall=c.exact_match, runs=c.runs, samples=c.samples)
        for c in cells
        if c.exact_match is not None
    ]
    good = [one for one in seen if one.length >= tokens and one.recall >= recall]
    bad = [one for one in seen if one.length <= tokens and one.recall < recall]
    return (
        min(good, key=lambda one: (one.rank, one.length), default=None),
        max(bad, key=lambda one: (one.rank, one.length), default=None),
    )


def reach(cells: Sequence[CellFit], tokens: int, rank: int | None) -> Reach:
    """How far (rank, tokens) lies from the cells."""
    ranks, lengths = [cell.rank for cell in cells], [cell.length for cell in cells]
    if rank is None:
        return Reach(rank_factor=None, tokens_factor=_beyond(tokens, lengths), inside=None, nearest=None)
    nearest = min(cells, key=lambda cell: _apart(cell.rank, rank) ** 2 + _apart(cell.length, tokens) ** 2)
    points = np.log(np.stack([ranks, lengths], axis=1)) - np.log([rank, tokens])
    return Reach(
        rank_factor=_beyond(rank, ranks),
        tokens_factor=_beyond(tokens, lengths),
        inside=_surrounded(points),
        nearest=(nearest.rank, nearest.length),
    )


def _apart(a: float, b: float) -> float:
    return abs(math.log(a / b))


def _beyond(value: int, known: Sequence[int]) -> float:
    return value / max(known) if value > max(known) else value / min(known) if value < min(known) else 1.0


def _surrounded(points: np.ndarray) -> bool:
    """Whether the origin lies in the convex hull: no open half-plane holds all points (which may lie on one line)."""
    away = points[np.hypot(*points.T) > 1e-9]
    if len(away) < len(points):
        return True
    angles = np.sort(np.arctan2(away[:, 1], away[:, 0]))
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    return bool(gaps.max() <= np.pi + 1e-9)
