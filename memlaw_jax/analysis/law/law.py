"""A fitted law ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b with all that is known about it, and its file. `fit.py` makes it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from scipy import stats

from memlaw_jax.analysis import files
from memlaw_jax.analysis.law.bootstrap import Draws
from memlaw_jax.analysis.law.card import fit_card
from memlaw_jax.analysis.law.jackknife import Jackknife
from memlaw_jax.analysis.law.least_squares import FORM, REPORTED, unreferenced
from memlaw_jax.analysis.law.likelihood import Hypothesis, Profile
from memlaw_jax.analysis.law.rivals import Rivals
from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, reading

SCHEMA = 2
MEASURED = (
    "exact_match",
    "token_accuracy",
    "samples",
    "steps",
    "token_visits",
    "effective_parameters",
    "seconds",
    "learning_rate",
)


@dataclass(frozen=True, kw_only=True)
class CellFit:
    """One cell of the sweep beside the law: means over its runs (over the used ones, where it has any), in nats.

    `reason` says why the cell was dropped (under the filter `tobit`, why it counts as a bound only) and is empty when
    it was used. The fields from `exact_match` on are means over all the cell's runs of what each run reports, None
    where the results do not say: the share of samples recalled, the share of tokens right, samples, optimiser steps,
    answer tokens seen in training, trainable parameters, seconds and learning rate.
    """

    rank: int
    length: int
    runs: int
    runs_used: int
    loss_initial: float
    loss_final: float
    delta: float
    predicted: float
    reason: str
    exact_match: float | None = None
    token_accuracy: float | None = None
    samples: float | None = None
    steps: float | None = None
    token_visits: float | None = None
    effective_parameters: float | None = None
    seconds: float | None = None
    learning_rate: float | None = None

    @property
    def used(self) -> bool:
        return self.runs_used > 0


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to be wary of. All is well when `converged` and `filter_settled` are true and the others false."""

    converged: bool
    at_bound: bool
    weakly_identified: bool
    filter_settled: bool
    outliers_suspected: bool


@dataclass(frozen=True, kw_only=True)
class Law:
    """ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b: nats of loss per answer token that an adapter of rank r removes on ℓ tokens.

    ΔL = L_initial − L_final (PAPER.md, section 1). `c_ref` = ΔL − b at the reference cell (`rank_ref`, `length_ref`,
    geometric means of the used cells) is the same scale as C where the data are, and far better determined. `r2`,
    `rmse` (nats), `rmse_relative` (rmse over the range of ΔL), `mape` (a fraction) and `aicc` are taken on the means of
    the used cells; `seed_sd` is the pooled spread of ΔL between seeds of one cell (nats, None without a second seed).
    `loss` is what was minimised, "squared", "huber" or, under the filter `tobit`, "censored", whose standard deviation
    of a run is `sigma` (nats). `draws`, `jackknife`, `profiles` and `tests` say how sure the law is, `rivals` what
    other laws make of the same cells.
    """

    C: float
    c_ref: float
    alpha: float
    beta: float
    b: float
    rank_ref: float
    length_ref: float
    r2: float
    rmse: float
    rmse_relative: float
    mape: float
    aicc: float | None
    seed_sd: float | None
    sigma: float | None
    filter: str
    loss: str
    method: str | None
    flags: Flags
    cells: tuple[CellFit, ...]
    draws: Draws | None
    jackknife: Jackknife | None
    profiles: tuple[Profile, ...]
    tests: tuple[Hypothesis, ...]
    rivals: Rivals | None
    diverged: int
    notes: tuple[str, ...]
    source: tuple[str, ...]
    created: str
    versions: dict[str, str]

    @property
    def used(self) -> tuple[CellFit, ...]:
        return tuple(cell for cell in self.cells if cell.used)

    @property
    def dropped(self) -> tuple[CellFit, ...]:
        return tuple(cell for cell in self.cells if not cell.used)

    def predict(self, rank: Any, length: Any) -> Any:
        """ΔL in nats per answer token; arrays broadcast. The law knows no ceiling: the loss of the base is one."""
        rank, length = np.asarray(rank, float), np.asarray(length, float)
        if not ((rank > 0).all() and (length > 0).all()):
            raise UserError(f"rank {rank} and length {length} must be positive to predict from a law")
        u, v = np.log(rank / self.rank_ref), np.log(length / self.length_ref)
        delta = self.c_ref * np.exp(self.alpha * u - self.beta * v) + self.b
        return float(delta) if delta.ndim == 0 else delta

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of C, c_ref, alpha, beta or b from the cell bootstrap."""
        low, high = np.percentile(self.draw(name), [50 * (1 - level), 50 * (1 + level)])
        return float(low), float(high)

    def draw(self, name: str) -> np.ndarray:
        """The bootstrap replicates of one parameter, in the same order for each: joint draws."""
        if name not in REPORTED:
            raise UserError(f"a law has no interval for {name!r}; choose one of {', '.join(REPORTED)}")
        if self.draws is None:
            raise UserError("this law was fitted with bootstrap=0 and has no intervals; fit it with bootstrap=400")
        c_ref, alpha, beta, b = (np.array(getattr(self.draws, x)) for x in ("c_ref", "alpha", "beta", "b"))
        constant = unreferenced(c_ref, alpha, beta, self.rank_ref, self.length_ref)
        return {"C": constant, "c_ref": c_ref, "alpha": alpha, "beta": beta, "b": b}[name]

    def ellipse(self, level: float = 0.95) -> tuple[tuple[float, float], np.ndarray, float]:
        """Centre (α, β), covariance of the bootstrap draws and χ² radius squared of the joint region of α and β.

        (α, β) is in it where (x − centre)ᵀ covariance⁻¹ (x − centre) is at most the last number.
        """
        covariance = np.cov(np.stack([self.draw("alpha"), self.draw("beta")]))
        return (self.alpha, self.beta), covariance, float(stats.chi2.ppf(level, 2))

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types, with the 95 % intervals beside the draws for readers without Python."""
        intervals = {name: list(self.interval(name)) for name in REPORTED} if self.draws else None
        return {"schema": SCHEMA, "form": FORM, "intervals": intervals, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Law:
        """The inverse of `to_dict`, exact to the last bit. Raises `UserError` when it is no law."""
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise UserError(f"this is no law of schema {SCHEMA} (found {found}); make one with `memlaw fit`")
        try:
            values = {field.name: content[field.name] for field in dataclasses.fields(cls)}
            law = cls(**values | _parts(values))
        except (KeyError, TypeError, AttributeError) as problem:
            raise UserError(f"the law is incomplete ({problem}); make it again with `memlaw fit`") from problem
        if content.get("form") != FORM:
            raise UserError(f"the law has another form ({content.get('form')}); make it again with `memlaw fit`")
        for name in ("C", "c_ref", "alpha", "beta", "b", "rank_ref", "length_ref"):
            if not isinstance(value := getattr(law, name), (int, float)):
                raise UserError(f"the law's {name} is {value!r}, no number; make it again with `memlaw fit`")
        return law

    def save(self, out: str | os.PathLike[str]) -> list[epath.Path]:
        """Write `law.json` and `fit_card.json` into a folder; returns their paths."""
        place = files.folder(out)
        contents = {"law.json": self.to_dict(), "fit_card.json": fit_card(self)}
        return [
            files.write(place / name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            for name, content in contents.items()
        ]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Law:
        """Read a `law.json`, or the one in a folder."""
        place = as_path(path)
        place = place / "law.json" if place.is_dir() else place
        if not place.exists():
            raise UserError(f"there is no {place}; make a law with `memlaw fit RESULTS --out DIR`")
        try:
            with reading(place):
                content = json.loads(place.read_text())
        except UserError:
            raise
        except ValueError as problem:
            raise UserError(f"{place} is no JSON ({problem}); make it again with `memlaw fit`") from problem
        return cls.from_dict(content)


def _parts(values: dict[str, Any]) -> dict[str, Any]:
    """The objects within a law, from JSON types."""
    rivals, jackknife, draws = values["rivals"], values["jackknife"], values["draws"]
    return {
        "draws": draws and Draws(**_tuples(draws)),
        "jackknife": jackknife and Jackknife(**jackknife),
        "profiles": tuple(Profile(**_tuples(profile)) for profile in values["profiles"]),
        "tests": tuple(Hypothesis(**_tuples(test)) for test in values["tests"]),
        "rivals": rivals and Rivals.from_dict(rivals),
        "flags": Flags(**values["flags"]),
        "cells": tuple(CellFit(**cell) for cell in values["cells"]),
        "notes": tuple(values["notes"]),
        "source": tuple(values["source"]),
    }


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
