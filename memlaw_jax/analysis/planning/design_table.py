"""The cells that a sweep can choose from, and what a choice of them would tell about α and β, at what price.

The law is linearised: with tangents X and variances σ² of the cell means the least-squares estimate scatters with
(XᵀX)⁻¹ Xᵀ diag(σ²) X (XᵀX)⁻¹. A cell's variance is s_u² + (½ m ΔL)², which its seeds share, plus
(s_e² + (m ΔL)²) / seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.law import varpro
from memlaw_jax.analysis.law.least_squares import FRAGILE, PARAMETERS, WIDE
from memlaw_jax.analysis.planning.design_basis import Basis

# Rivals are told apart by curvature and lack of fit, which a handful of cells cannot show.
FEWEST_CELLS, FEWEST_LEVELS = 12, 3
# Distance to the bounds of `weakly_identified`, since the fit of a sweep with noise sees other exponents than planned.
DESIGN_MARGIN, _NOISE_MARGIN = 0.9, 0.75
# A cell is a candidate when its predicted final loss is above ln 2 by two standard deviations of a single run.
_ABOVE_THRESHOLD = 2.0
_Z = float(stats.norm.ppf(0.975))

Pairs: TypeAlias = tuple[tuple[int, int], ...]  # (rank, length)


def inflation(cells: Int[np.ndarray, " *S"]) -> Float[np.ndarray, " *S"]:
    """How much wider than 3.92 standard errors the cell bootstrap's 95 % intervals are, by the number of cells.

    Resampling a dozen cells often drops one that carries an exponent, which makes intervals a third wider; with many
    cells they are a little narrow. Measured on simulated sweeps of 12 to 120 cells: 1.2 to 1.6 with 12 to 15, 1.0 to
    1.14 with 19 to 25, 0.92 with 120 (`tests/analysis/test_design.py` holds the prediction to it).
    """
    return 0.87 + 4 / np.maximum(cells - PARAMETERS, 1)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of M sets of cells: what each would tell, and the seeds that it takes for the wanted width."""

    fine: Bool[np.ndarray, " M"]  # enough cells, and no exponent that the design alone leaves loose
    share: Float[np.ndarray, "M 2"]  # variance of α and β that more seeds do not lessen
    per_seed: Float[np.ndarray, "M 2"]
    factor: Float[np.ndarray, " M"]
    seeds: Float[np.ndarray, " M"]  # least for the wanted width, in fractions; inf where none would do
    cost: Float[np.ndarray, " M"]  # of one seed

    @property
    def whole_seeds(self) -> Float[np.ndarray, " M"]:
        return np.maximum(np.ceil(self.seeds - 1e-9), 1.0)

    def errors(self, seeds: float) -> Float[np.ndarray, "M 2"]:
        """Standard errors of α and β."""
        return np.sqrt(self.share + self.per_seed / seeds)

    def widths(self, seeds: float) -> Float[np.ndarray, "M 2"]:
        """Of the 95 % intervals on α and β, whether the set is fine or not."""
        return 2 * _Z * self.factor[:, None] * self.errors(seeds)

    def least(self, seeds: float) -> Float[np.ndarray, " M"]:
        """α's width, inf where the set is not fine."""
        return np.where(self.fine, self.widths(seeds)[:, 0], np.inf)


@dataclass(frozen=True, kw_only=True)
class Table:
    """K candidate cells: neither saturated nor without anything to learn, as the law predicts."""

    ranks: tuple[int, ...]
    lengths: tuple[int, ...]
    i: Int[np.ndarray, " K"]  # place of the cell's rank in `ranks`
    j: Int[np.ndarray, " K"]
    delta: Float[np.ndarray, " K"]
    cost: Float[np.ndarray, " K"]
    tangent: Float[np.ndarray, "K 4"]
    shared: Float[np.ndarray, " K"]  # variance of the cell
    own: Float[np.ndarray, " K"]  # variance of one run about its cell
    exponents: Float[np.ndarray, " 2"]
    saturated: Pairs
    unlearned: Pairs

    def __len__(self) -> int:
        return len(self.i)

    def cells(self, mask: Bool[np.ndarray, " K"]) -> Pairs:
        return _pairs(self.ranks, self.lengths, self.i[mask], self.j[mask])

    def grids(self, rows: Bool[np.ndarray, "M R"], columns: Bool[np.ndarray, "M N"]) -> Bool[np.ndarray, "M K"]:
        """The cells of each subset of the ranks × subset of the lengths."""
        return rows[:, self.i] & columns[:, self.j]

    def scores(self, masks: Bool[np.ndarray, "M K"], wanted: float) -> Scores:
        """Of sets of cells, for a wanted width of α's interval."""
        used = masks.astype(float)
        count = used.sum(1)
        levels = [((used @ (axis[:, None] == np.unique(axis))) > 0).sum(1) for axis in (self.i, self.j)]
        fine = (count >= FEWEST_CELLS) & (levels[0] >= FEWEST_LEVELS) & (levels[1] >= FEWEST_LEVELS)
        scale = np.sqrt((self.tangent**2).mean(0))
        x = self.tangent / scale
        outer = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        some = used[fine]
        normal, shared, own = (
            (some @ (weight[:, None] * outer)).reshape(-1, PARAMETERS, PARAMETERS)
            for weight in (np.ones(len(x)), self.shared, self.own)
        )
        normal += 1e-13 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(PARAMETERS)
        inverse = np.linalg.inv(normal)

        def variances(middle: np.ndarray) -> np.ndarray:
            return np.maximum(np.einsum("mii->mi", inverse @ middle @ inverse), 0.0)[:, 1:3] / scale[1:3] ** 2

        share, per_seed, plain = np.full((3, len(masks), 2), np.inf)
        share[fine], per_seed[fine], plain[fine] = variances(shared), variances(own), np.sqrt(variances(normal))
        # The two tests of `weakly_identified`, with a margin: noise of 1 % of ΔL's range, and the noise expected.
        span = np.where(masks, self.delta, -np.inf).max(1) - np.where(masks, self.delta, np.inf).min(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            fine &= (0.01 * span[:, None] * plain <= DESIGN_MARGIN * FRAGILE * self.exponents).all(1)
            factor = inflation(count)
            target = (wanted / (2 * _Z * factor)) ** 2
            seeds = np.where(target > share[:, 0], per_seed[:, 0] / (target - share[:, 0]), np.inf)
            student = 2 * stats.t.ppf(0.975, np.maximum(count - PARAMETERS, 1))
            loose = ((_NOISE_MARGIN * WIDE * self.exponents) / (student[:, None] * plain)).min(1) ** 2
            shared_mean, own_mean = ((used @ weight) / np.maximum(count, 1) for weight in (self.shared, self.own))
            guard = np.where(loose > shared_mean, own_mean / (loose - shared_mean), np.inf)
        seeds = np.where(fine, np.maximum(seeds, guard), np.inf)
        return Scores(fine=fine, share=share, per_seed=per_seed, factor=factor, seeds=seeds, cost=used @ self.cost)


def candidates(on: Basis, ranks: tuple[int, ...], lengths: tuple[int, ...]) -> Table:
    """The cells that say something about the law, and those that would be saturated or learn nothing."""
    truth, noise = on.truth, on.noise
    i, j = (x.ravel() for x in np.meshgrid(np.arange(len(ranks)), np.arange(len(lengths)), indexing="ij"))
    rank, length = np.array(ranks, float)[i], np.array(lengths, float)[j]
    delta = truth.delta(rank, length)
    shared, own = noise.s_u**2 + (noise.m * delta / 2) ** 2, noise.s_e**2 + (noise.m * delta) ** 2
    full = truth.before(length) - delta <= SATURATED + _ABOVE_THRESHOLD * np.sqrt(shared + own)
    empty = (delta <= 0) & ~full
    kept = ~(full | empty)
    centre = [float(np.exp(np.log(x[kept] if kept.any() else x).mean())) for x in (rank, length)]
    scale = truth.C * centre[0] ** truth.alpha * centre[1] ** -truth.beta
    u, v = np.log(rank[kept] / centre[0]), np.log(length[kept] / centre[1])
    return Table(
        ranks=ranks,
        lengths=lengths,
        i=i[kept],
        j=j[kept],
        delta=delta[kept],
        cost=on.cost.of(rank, length)[kept],
        tangent=varpro.tangents(u, v, scale, truth.alpha, truth.beta),
        shared=shared[kept],
        own=own[kept],
        exponents=np.array([truth.alpha, truth.beta]),
        saturated=_pairs(ranks, lengths, i[full], j[full]),
        unlearned=_pairs(ranks, lengths, i[empty], j[empty]),
    )


def _pairs(ranks: tuple[int, ...], lengths: tuple[int, ...], i: Iterable[int], j: Iterable[int]) -> Pairs:
    return tuple((ranks[a], lengths[b]) for a, b in zip(i, j, strict=True))
