"""A fitted memory law ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b, and `fit_law`, which makes one from results."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.analysis import bootstrap as resampling
from memlaw_jax.analysis import files
from memlaw_jax.analysis.bootstrap import Draws
from memlaw_jax.analysis.card import fit_card
from memlaw_jax.analysis.cells import gather, mixtures
from memlaw_jax.analysis.filters import select
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.least_squares import (
    FORM,
    REPORTED,
    Estimate,
    fit_cells,
    quality,
    unreferenced,
    weakly_identified,
)
from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, reading
from memlaw_jax.version import __version__

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CellFit:
    """One cell of the sweep beside the law: means over its runs (over the used ones, where it has any), in nats.

    `reason` says why the cell was dropped and is empty when it was used.
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


@dataclass(frozen=True, kw_only=True)
class Law:
    """ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b: nats of loss per answer token that an adapter of rank r removes on ℓ tokens.

    ΔL = L_initial − L_final (PAPER.md, section 1). `c_ref` = ΔL − b at the reference cell (`rank_ref`, `length_ref`,
    geometric means of the used cells) is the same scale as C where the data are, and far better determined. `r2`,
    `rmse` (nats), `rmse_relative` (rmse over the range of ΔL), `mape` (a fraction) and `aicc` are taken on the means of
    the used cells; `seed_sd` is the pooled spread of ΔL between seeds of one cell (nats, None without a second seed).
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
    filter: str
    method: str | None
    flags: Flags
    cells: tuple[CellFit, ...]
    draws: Draws | None
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
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            values = {name: content[name] for name in names}
            draws = values["draws"]
            if draws is not None:
                listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in draws.items()}
                values["draws"] = Draws(**listed)
            values["flags"] = Flags(**values["flags"])
            values["cells"] = tuple(CellFit(**cell) for cell in values["cells"])
            values["notes"], values["source"] = tuple(values["notes"]), tuple(values["source"])
            law = cls(**values)
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


def fit_law(
    source: Source | Iterable[Source],
    filter: str = "predicted",
    method: str | None = None,
    bootstrap: int = 400,
    seed: int = 0,
) -> Law:
    """Fit the memory law to results: global least squares with free b, saturated cells dropped by `filter`.

    `source` is anything `read_frame` takes. `filter` is "predicted" (whole cells, by the law's own prediction) or
    "paper" (run by run). `method` picks one training method where the results hold several. `bootstrap` cell resamples
    (0 for none) give the intervals, drawn from `seed`. Raises `UserError` for bad input, several methods, or fewer than
    5 unsaturated cells.
    """
    replicates = checked_replicates(bootstrap)
    frame = read_frame(source)
    frame, method = _one_method(frame, method)
    chosen = select(frame, filter)
    whole, used = gather(frame), gather(frame[chosen.kept])
    fit = fit_cells(used)
    draws = resampling.cell_bootstrap(used, fit, replicates=replicates, seed=seed) if replicates else None
    lost = frame.attrs["diverged"]
    return Law(
        C=fit.constant,
        c_ref=fit.scale,
        alpha=fit.alpha,
        beta=fit.beta,
        b=fit.offset,
        rank_ref=fit.rank_ref,
        length_ref=fit.length_ref,
        **dataclasses.asdict(quality(fit, used)),
        seed_sd=used.seed_sd(),
        filter=filter,
        method=method,
        flags=Flags(
            converged=fit.converged,
            at_bound=fit.at_bound,
            weakly_identified=weakly_identified(fit, used),
            filter_settled=chosen.settled,
        ),
        cells=_beside(fit, whole, used, chosen.reasons),
        draws=draws,
        diverged=sum(method is None or run.get("method", method) == method for run in lost),
        notes=mixtures(frame),
        source=tuple(frame.attrs["source"]),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={
            "memlaw_jax": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("numpy", "scipy", "pandas")},
        },
    )


def checked_replicates(bootstrap: int) -> int:
    """A number of resamples, or `UserError`."""
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, Integral) or bootstrap < 0:
        raise UserError(f"bootstrap is {bootstrap}; give a number of resamples, 300 or more, or 0 for no intervals")
    return int(bootstrap)


def _one_method(frame: pd.DataFrame, method: str | None) -> tuple[pd.DataFrame, str | None]:
    if "method" not in frame.columns:
        if method is not None:
            raise UserError(f"method is {method!r} but the results have no method column; leave method out")
        return frame, None
    names = sorted(str(name) for name in frame["method"].dropna().unique())
    if method is None:
        if len(names) > 1:
            raise UserError(
                f"the results hold {len(names)} methods ({', '.join(names)}); fit one, as method={names[0]!r} "
                "(--method)"
            )
        return frame, names[0] if names else None
    if method not in names:
        raise UserError(f"the results hold no method {method!r}; choose one of {', '.join(names)}")
    return frame[frame["method"] == method], method


def _beside(fit: Estimate, whole, used, reasons: dict[tuple[int, int], str]) -> tuple[CellFit, ...]:
    place = {key: i for i, key in enumerate(used.key)}
    rows = []
    for k, key in enumerate(whole.key):
        source, i = (used, place[key]) if key in place else (whole, k)
        rows.append(
            CellFit(
                rank=key[0],
                length=key[1],
                runs=int(whole.runs[k]),
                runs_used=int(source.runs[i]) if key in place else 0,
                loss_initial=float(source.initial[i]),
                loss_final=float(source.final[i]),
                delta=float(source.delta[i]),
                predicted=float(fit.predict(*key)),
                reason=reasons.get(key, ""),
            )
        )
    return tuple(rows)
