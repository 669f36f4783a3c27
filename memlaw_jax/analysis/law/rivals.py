"""The memory law among other forms of ΔL(r, ℓ): AICc on the cells it was fitted to, and errors on cells left out.

R² is near one for any smooth surface that rises with rank and falls with length, so it cannot tell the law from its
rivals; AICc weighs misfit against parameters, and held-out cells ask what the law is for, prediction. Every form gets
the same cells, the same weights (runs) and a global least-squares fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from memlaw_jax.analysis.cells import Cells
from memlaw_jax.analysis.law import rivals_words
from memlaw_jax.analysis.law.least_squares import Estimate, coordinates
from memlaw_jax.analysis.law.rival_fits import Fits, solve
from memlaw_jax.analysis.law.rival_forms import CURVATURE, FORMS, LAW, Form
from memlaw_jax.analysis.law.varpro import EXACT

# Share of the ranks (and of the lengths) held out at the far end, at least one.
HELD_OUT = 0.25


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One form fitted to the used cells.

    `parameters` are those of `formula` (nats, tokens); `k` counts them, without the variance; `rmse` in nats on cell
    means. `aicc` is as in `Quality`, `delta_aicc` its excess over the least of all forms; both None with too few cells.
    `heldout`: RMSE (nats) on the means of cells left out of the fit, None where the other cells do not fix this form.
    `converged` is False too where the cells ask for no such form at all, and a constant was the best it could do.
    """

    name: str
    title: str
    formula: str
    parameters: dict[str, float]
    k: int
    aicc: float | None
    delta_aicc: float | None
    rmse: float
    heldout: dict[str, float | None]
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """The law, first, and its rivals on the same cells. `words()` says how it stands.

    `rank_ref` and `length_ref` are r₀ and ℓ₀ of the curvature; `largest_ranks` and `longest_lengths` were held out.
    `refitted`: the law that was given is no least-squares fit, so the entry here is another, for a fair comparison.
    """

    entries: tuple[Rival, ...]
    cells: int
    rank_ref: float
    length_ref: float
    largest_ranks: tuple[int, ...]
    longest_lengths: tuple[int, ...]
    refitted: bool

    @property
    def law(self) -> Rival:
        return self.entries[0]

    @property
    def best(self) -> Rival | None:
        """The entry with the least AICc; None with too few cells for the law's."""
        if self.law.aicc is None:
            return None
        return min((entry for entry in self.entries if entry.aicc is not None), key=lambda entry: entry.aicc or 0.0)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Rivals:
        """The inverse of `dataclasses.asdict`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        values["entries"] = tuple(Rival(**entry) for entry in content["entries"])
        return cls(**values)

    def words(self) -> list[str]:
        """How the law stands among the forms, in sentences."""
        return rivals_words.describe(self)


def compare_rivals(cells: Cells, law: Estimate) -> Rivals:
    """Fit every form to the used cells, and again without the cells held out. Never raises; deterministic.

    `law` is the law of these cells. Where it is no least-squares fit (Huber, Tobit), the entry of the law is one.
    """
    u, v = coordinates(cells, law.rank_ref, law.length_ref)
    runs = cells.runs.astype(float)
    ranks, lengths = (_far_end(x) for x in (cells.rank, cells.length))
    splits = {
        "largest_ranks": [np.isin(cells.rank, ranks)],
        "longest_lengths": [np.isin(cells.length, lengths)],
        "leave_one_rank_out": [cells.rank == rank for rank in np.unique(cells.rank)],
    }
    given = Fits(
        theta=np.array([[law.alpha, law.beta]]),
        coef=np.array([[law.scale]]),
        offset=np.array([law.offset]),
        sse=np.array([(runs * (cells.delta - law.predict(cells.rank, cells.length)) ** 2).sum()]),
        found=np.array([True]),
        converged=np.array([law.converged]),
    )
    entries, refitted = [], False
    for form in FORMS:
        # The law is the curvature with δ = 0: from there the polish can only go down.
        start = {LAW.name: (law.alpha, law.beta), CURVATURE.name: (law.alpha, law.beta, 0.0)}.get(form.name)
        full = solve(form, u, v, cells.delta, runs[None], starts=[start] if start else [])
        if form is LAW:
            # Two polishes of one valley agree to their stopping rule (cosine 1e-7, squared) and to rounding of y.
            slack = 1e-9 * full.sse[0] + EXACT * (runs * cells.delta**2).sum()
            refitted = bool(full.found[0] and given.sse[0] > full.sse[0] + slack)
            full = full if refitted else given
        entries.append(_entry(form, full, cells, law, (u, v), splits))
    least = min((entry["aicc"] for entry in entries if entry["aicc"] is not None), default=None)
    return Rivals(
        entries=tuple(
            Rival(**entry, delta_aicc=None if least is None or entry["aicc"] is None else entry["aicc"] - least)
            for entry in entries
        ),
        cells=len(cells),
        rank_ref=law.rank_ref,
        length_ref=law.length_ref,
        largest_ranks=ranks,
        longest_lengths=lengths,
        refitted=refitted,
    )


def _far_end(values: np.ndarray) -> tuple[int, ...]:
    levels = np.unique(values)
    return tuple(int(x) for x in levels[-max(1, round(HELD_OUT * len(levels))) :])


def _entry(form: Form, full: Fits, cells: Cells, law: Estimate, place, splits) -> dict[str, Any]:
    natural = form.natural(full.coef[0], full.theta[0], full.offset[0], law.rank_ref, law.length_ref)
    miss = cells.delta - full.predict(form, *place)[0]
    return {
        "name": form.name,
        "title": form.title,
        "formula": form.formula,
        "parameters": {name: float(value) for name, value in natural.items() if np.isfinite(value)},
        "k": form.k,
        "aicc": _aicc(miss, cells, form.k + 1),
        "rmse": float(np.sqrt((miss**2).mean())),
        "heldout": _held_out(form, full, cells, place, splits),
        "converged": bool(full.found[0] and full.converged[0]),
    }


def _aicc(miss: np.ndarray, cells: Cells, k: int) -> float | None:
    """As in `quality`, but residuals of mere rounding count as equal: they would make differences of hundreds."""
    n, runs = len(cells), cells.runs
    if n <= k + 1:
        return None
    weighted = max(float((runs * miss**2).sum()), EXACT * float((runs * cells.delta**2).sum()), 1e-300) / runs.mean()
    return float(n * np.log(weighted / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _held_out(form: Form, full: Fits, cells: Cells, place, splits) -> dict[str, float | None]:
    """RMSE on left-out cells for each kind of split; one batch of fits for all of them."""
    u, v = place
    masks = [mask for kind in splits.values() for mask in kind]
    usable = [_identifies(form, cells, place, ~mask) for mask in masks]
    errors: list[np.ndarray | None] = [None] * len(masks)
    if any(usable):
        weights = np.stack([cells.runs * ~mask for mask, use in zip(masks, usable, strict=True) if use]).astype(float)
        starts = [full.theta[0]] if full.found[0] else []
        fits = solve(form, u, v, cells.delta, weights, starts=starts, valleys=3)
        with np.errstate(over="ignore", invalid="ignore"):
            miss = iter(zip(fits.predict(form, u, v) - cells.delta, fits.found, strict=True))
        for i in np.flatnonzero(usable):
            values, found = next(miss)
            errors[i] = values[masks[i]] if found and np.isfinite(values[masks[i]]).all() else None
    out: dict[str, float | None] = {}
    queue = iter(errors)
    for name, kind in splits.items():
        parts = [next(queue) for _ in kind]
        known = [part for part in parts if part is not None]
        # With a rank missing the error would be pooled over easier cells than another form's.
        out[name] = float(np.sqrt((np.concatenate(known) ** 2).mean())) if len(known) == len(parts) else None
    return out


def _identifies(form: Form, cells: Cells, place, keep: Bool[np.ndarray, " K"]) -> bool:
    """A cell more than parameters, enough ranks and lengths, and cells that do not lie on one line of ln r, ln ℓ."""
    if keep.sum() <= form.k or any(len(np.unique(x[keep])) < form.levels for x in (cells.rank, cells.length)):
        return False
    return bool(np.linalg.matrix_rank(np.stack([np.ones(keep.sum()), *(x[keep] for x in place)])) == 3)
