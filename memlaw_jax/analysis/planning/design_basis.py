"""What a design rests on: the law's parameters, its noise, and what a run costs, read from a law or by default."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.least_squares import PARAMETERS
from memlaw_jax.errors import UserError

_RATE = 0.01  # the release's learning rate (PAPER.md, section 2)
_EXPOSURES = 200.0  # times that each token is seen, where nothing was measured: the release's PhoneBook epochs
_BEATEN = 10.0  # ΔAICc beyond which a rival is clearly the better description
_UNEVEN = 1.25  # ranks cost alike until their measured seconds differ by more than this factor


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations in nats: `s_u` between cells, `s_e` between seeds of a cell; `m` is a share of ΔL."""

    s_u: float
    s_e: float
    m: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Truth:
    """ΔL = C r^α ℓ^(−β) + b that the design is made for; `initial` is the base's loss by length, nats."""

    C: float
    alpha: float
    beta: float
    b: float
    initial: tuple[tuple[int, float], ...]
    source: str

    def delta(self, rank: Any, length: Any) -> Float[np.ndarray, " *S"]:
        """ΔL in nats per answer token."""
        return self.C * np.asarray(rank, float) ** self.alpha * np.asarray(length, float) ** -self.beta + self.b

    def before(self, length: Any) -> Float[np.ndarray, " *S"]:
        """L_initial in nats: interpolated in ln ℓ, constant outside."""
        lengths, losses = np.array(self.initial, float).T
        return np.interp(np.log(length), np.log(lengths), losses)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run costs, in `unit`: (`overhead` + `per_visit` · token visits) times its rank's factor."""

    unit: str
    overhead: float
    per_visit: float
    visits: tuple[tuple[int, float], ...]  # by length
    slope: float  # of ln visits by ln ℓ, beyond the lengths that were measured
    factors: tuple[tuple[int, float], ...] = ()  # by rank; none where ranks cost alike

    def token_visits(self, length: Any) -> Float[np.ndarray, " *S"]:
        """Of one run."""
        lengths, visits = np.array(self.visits, float).T
        x, at = np.log(lengths), np.log(np.asarray(length, float))
        beyond = np.minimum(at - x[0], 0.0) + np.maximum(at - x[-1], 0.0)
        return np.exp(np.interp(at, x, np.log(visits)) + self.slope * beyond)

    def of(self, rank: Any, length: Any) -> Float[np.ndarray, " *S"]:
        """Of one run."""
        cost = self.overhead + self.per_visit * self.token_visits(length)
        if self.factors:
            ranks, factors = np.array(self.factors, float).T
            cost = cost * np.exp(np.interp(np.log(rank), np.log(ranks), np.log(factors)))
        return np.broadcast_to(cost, np.broadcast_shapes(np.shape(rank), np.shape(length)))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the law's cells were trained, as far as their records say: what the configs repeat."""

    samples: int | None
    steps: int | None
    epochs: int | None
    batch_size: int | None
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Basis:
    """All that a design rests on; `assumptions` says it in sentences, `ranks` and `lengths` are the law's own."""

    truth: Truth
    noise: Noise
    cost: Cost
    recipe: Recipe
    ranks: tuple[int, ...]
    lengths: tuple[int, ...]
    assumptions: tuple[str, ...]


# The base case of tests/analysis/simulate.py, for those who have no law yet.
DEFAULT_NOISE = Noise(s_u=0.01, s_e=0.02, m=0.02, source="the project's standard simulation")
_DEFAULT = Truth(C=20.0, alpha=0.6, beta=0.5, b=0.3, initial=((1000, 2.6),), source="the project's standard simulation")
_RANKS = (1, 2, 4, 8, 16, 32, 64)
_LENGTHS = (1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000)


def basis(law: Law | None) -> Basis:
    """What `law` and its cells say, completed by defaults; all defaults without one."""
    truth, noise = (_DEFAULT, DEFAULT_NOISE) if law is None else (_truth(law), _noise(law))
    cost = _cost(law)
    return Basis(
        truth=truth,
        noise=noise,
        cost=cost,
        recipe=_recipe(law),
        ranks=_RANKS if law is None else tuple(sorted({cell.rank for cell in law.cells})),
        lengths=_LENGTHS if law is None else tuple(sorted({cell.length for cell in law.cells})),
        assumptions=_assumptions(law, truth, noise, cost),
    )


def rounded(value: float, digits: int = 3) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}")


def whole_numbers(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    """Sorted, each once; `UserError` for anything else, with `name` in it."""
    listed = list(values)
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise UserError(f"{name} holds {value!r}; give whole numbers, 1 or more")
    if not listed:
        raise UserError(f"{name} is empty; give whole numbers, 1 or more, or leave {name} out")
    return tuple(sorted({int(value) for value in listed}))


def _truth(law: Law) -> Truth:
    losses: dict[int, list[float]] = {}
    for cell in law.cells:
        losses.setdefault(cell.length, []).append(cell.loss_initial)
    initial = tuple((length, float(np.mean(losses[length]))) for length in sorted(losses))
    return Truth(C=law.C, alpha=law.alpha, beta=law.beta, b=law.b, initial=initial, source="the law")


def _noise(law: Law) -> Noise:
    """Between seeds from `seed_sd`, between cells what is left of the law's misses; one seed cannot tell them apart."""
    n = len(law.used)
    miss = law.rmse**2 * n / max(n - PARAMETERS, 1)
    if law.seed_sd is None:
        half = math.sqrt(miss / 2)
        return Noise(
            s_u=half, s_e=half, m=0.0, source="half of the law's squared misses each, as no cell has a second seed"
        )
    runs = float(np.mean([cell.runs_used for cell in law.used]))
    s_u = math.sqrt(max(miss - law.seed_sd**2 / runs, 0.0))
    return Noise(s_u=s_u, s_e=law.seed_sd, m=0.0, source="the law's spread between seeds, and what else it misses")


def _known(law: Law | None, name: str) -> list[tuple[int, int, float]]:
    """(rank, length, value) of the law's cells that say `name`."""
    found = [(c.rank, c.length, getattr(c, name)) for c in (law.cells if law else ())]
    return [(rank, length, float(value)) for rank, length, value in found if value is not None and value > 0]


def _recipe(law: Law | None) -> Recipe:
    samples, steps, visits, rates = (
        {(r, n): x for r, n, x in _known(law, name)} for name in ("samples", "steps", "token_visits", "learning_rate")
    )
    rate = rounded(float(np.exp(np.mean(np.log(list(rates.values())))))) if rates else _RATE
    single = max(samples.values()) <= 1 if samples else None
    both = [key for key in steps if key in visits]
    fixed = len(set(steps.values())) == 1
    if not both or fixed:
        count = round(next(iter(steps.values()))) if fixed else None
        return Recipe(samples=1 if single else None, steps=count, epochs=None, batch_size=None, learning_rate=rate)
    epochs = round(float(np.median([visits[key] / key[1] for key in both])))
    batches = {round(samples[key] * epochs / steps[key]) for key in both if key in samples} - {0}
    batch = batches.pop() if len(batches) == 1 and not single else None
    many = round(max(samples.values())) if samples else None
    return Recipe(samples=many, steps=None, epochs=max(epochs, 1), batch_size=batch, learning_rate=rate)


def _cost(law: Law | None) -> Cost:
    """Seconds, where every cell of the law says how long it took; else token visits."""
    measured = _known(law, "token_visits")
    if not measured:
        return Cost(unit="token visits", overhead=0.0, per_visit=1.0, visits=((1, _EXPOSURES),), slope=1.0)
    by_length: dict[int, list[float]] = {}
    for _, length, value in measured:
        by_length.setdefault(length, []).append(value)
    visits = tuple((length, float(np.mean(by_length[length]))) for length in sorted(by_length))
    x, y = (np.log(column) for column in np.array(visits).T)
    slope = float(max(np.polyfit(x, y, 1)[0], 0.0)) if len(x) > 1 else 1.0
    plain = Cost(unit="token visits", overhead=0.0, per_visit=1.0, visits=visits, slope=slope)
    seconds = _known(law, "seconds")
    if law is None or len(seconds) < len(law.cells):
        return plain
    rank, lengths, took = np.array(seconds).T
    # Least squares of relative errors, so that short cells tell the overhead; neither part can be negative.
    design = np.stack([np.ones_like(took), plain.token_visits(lengths)], axis=1) / took[:, None]
    overhead, per_visit = optimize.nnls(design, np.ones_like(took))[0]
    cost = dataclasses.replace(plain, unit="seconds", overhead=float(overhead), per_visit=float(per_visit))
    off = np.log(took / cost.of(rank, lengths))
    factors = tuple((int(r), float(np.exp(off[rank == r].mean()))) for r in np.unique(rank))
    values = [factor for _, factor in factors]
    return dataclasses.replace(cost, factors=factors) if max(values) > _UNEVEN * min(values) else cost


def _assumptions(law: Law | None, truth: Truth, noise: Noise, cost: Cost) -> tuple[str, ...]:
    sign = "+" if truth.b >= 0 else "−"
    said = [
        f"ΔL = {truth.C:.4g} · rank^{truth.alpha:.3f} · length^(−{truth.beta:.3f}) {sign} {abs(truth.b):.3g} nats, "
        f"from {truth.source}; the base starts at {_range([loss for _, loss in truth.initial])} nats.",
        f"cells scatter by {noise.s_u:.2g} nats and seeds within a cell by {noise.s_e:.2g}"
        + (f", besides {100 * noise.m:.2g} % of ΔL" if noise.m else "")
        + f", from {noise.source}.",
    ]
    if cost.unit == "seconds":
        over = f"{cost.overhead:.3g} s and " if cost.overhead else ""
        said.append(f"a run takes {over}{1e6 * cost.per_visit:.3g} s per million token visits, as the law's cells did.")
    elif _known(law, "token_visits"):
        said.append("a run costs the token visits that the law's cells spent.")
    else:
        said.append(f"a run costs its token visits, {_EXPOSURES:g} exposures of each token.")
    if cost.factors:
        said.append(f"ranks cost differently, by a factor of {_range([factor for _, factor in cost.factors])}.")
    else:
        said.append("all ranks cost alike.")
    ahead = law.rivals.entries[0].delta_aicc if law is not None and law.rivals is not None else None
    if ahead is not None and ahead > _BEATEN:
        said.append("what the law misses is noise, although a rival describes the cells better by AICc.")
    if law is not None and law.flags.weakly_identified:
        said.append(
            "the law is good enough to plan with, though its fit is weakly identified: plan again after a first sweep."
        )
    return tuple(said)


def _range(values: Sequence[float]) -> str:
    low, high = (f"{x:.3g}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
