"""From results to a law: which cells, by which loss, and how sure one may be of it."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Iterable
from importlib import metadata
from numbers import Integral

import numpy as np
import pandas as pd

from memlaw_jax.analysis.cells import SATURATED, Cells, gather, mixtures
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law.bootstrap import cell_bootstrap
from memlaw_jax.analysis.law.filters import Selection, select
from memlaw_jax.analysis.law.jackknife import jackknife
from memlaw_jax.analysis.law.law import MEASURED, CellFit, Flags, Law
from memlaw_jax.analysis.law.least_squares import Estimate, estimate, quality, weakly_identified
from memlaw_jax.analysis.law.likelihood import Likelihood, hypotheses, profiles
from memlaw_jax.analysis.law.outliers import outliers_suspected
from memlaw_jax.analysis.law.problem import Problem, of_cells, of_runs, reference, unsaturated
from memlaw_jax.analysis.law.rivals import compare_rivals
from memlaw_jax.errors import UserError
from memlaw_jax.version import __version__

LOSSES = ("squared", "huber")


def fit_law(
    source: Source | Iterable[Source],
    filter: str = "predicted",
    method: str | None = None,
    loss: str = "squared",
    bootstrap: int = 400,
    seed: int = 0,
    *,
    evidence: bool = True,
) -> Law:
    """Fit the memory law to results: the global optimum with free b, its uncertainty, and what rivals make of them.

    Args:
      source: anything `read_frame` takes.
      filter: what becomes of saturated cells. "predicted" drops whole cells by the law's own prediction, "paper" drops
        single runs by their own final loss, "tobit" keeps all and counts saturated runs as bounds of ΔL.
      method: one training method, where the results hold several.
      loss: "squared", or "huber", which a few badly trained runs cannot bend.
      bootstrap: cell resamples, drawn from `seed`, for the intervals; 0 for none.
      evidence: whether the jackknife, the profiles, the tests of simpler laws and the rivals are wanted too, which is
        nine tenths of the work. There are none without a bootstrap.

    Raises:
      UserError: bad input, several methods, fewer than 5 unsaturated cells, or ΔL that follows no such law.
    """
    replicates = checked_replicates(bootstrap, seed)
    if loss not in LOSSES:
        raise UserError(f"loss is {loss!r}; choose one of {', '.join(LOSSES)}")
    if filter == "tobit" and loss != "squared":
        raise UserError(f"the filter 'tobit' has a likelihood of its own and loss is {loss!r}; leave one of them out")
    frame = read_frame(source)
    frame, method = _one_method(frame, method)
    chosen, fit, problem = (_censored if filter == "tobit" else _selected)(frame, filter, loss)
    whole, used = gather(frame), gather(frame[chosen.kept])
    lost = frame.attrs["diverged"]
    law = Law(
        C=fit.constant,
        c_ref=fit.scale,
        alpha=fit.alpha,
        beta=fit.beta,
        b=fit.offset,
        rank_ref=fit.rank_ref,
        length_ref=fit.length_ref,
        **dataclasses.asdict(quality(fit, used)),
        seed_sd=used.seed_sd(),
        sigma=fit.sigma if filter == "tobit" else None,
        filter=filter,
        loss="censored" if filter == "tobit" else loss,
        method=method,
        flags=Flags(
            converged=fit.converged,
            at_bound=fit.at_bound,
            weakly_identified=weakly_identified(fit, used),
            filter_settled=chosen.settled,
            outliers_suspected=outliers_suspected(fit, frame[chosen.kept]),
        ),
        cells=_beside(fit, frame, whole, used, chosen.reasons),
        draws=None,
        jackknife=None,
        profiles=(),
        tests=(),
        rivals=None,
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
    if not replicates:
        return law
    law = dataclasses.replace(law, draws=cell_bootstrap(problem, replicates=replicates, seed=seed))
    return _with_evidence(law, fit, problem, used) if evidence else law


def _with_evidence(law: Law, fit: Estimate, problem: Problem, used: Cells) -> Law:
    likelihood = Likelihood(problem, fit)
    return dataclasses.replace(
        law,
        jackknife=jackknife(problem, fit.rank_ref, fit.length_ref),
        profiles=profiles(likelihood),
        tests=hypotheses(likelihood),
        rivals=compare_rivals(used, fit),
    )


def _selected(frame: pd.DataFrame, filter: str, loss: str) -> tuple[Selection, Estimate, Problem]:
    """Saturated cells or runs are left out."""

    def problem_of(runs: pd.DataFrame) -> tuple[Problem, tuple[float, float]]:
        cells = gather(runs)
        middle = reference(cells)
        return of_cells(cells, *middle) if loss == "squared" else of_runs(runs, "huber", *middle), middle

    def fit_runs(runs: pd.DataFrame) -> Estimate:
        problem, middle = problem_of(runs)
        return estimate(problem, *middle)

    chosen = select(frame, filter, fit_runs)
    problem, middle = problem_of(frame[chosen.kept])
    fit = estimate(problem, *middle)
    return chosen, fit, dataclasses.replace(problem, warm=(fit.alpha, fit.beta))


def _censored(frame: pd.DataFrame, filter: str, loss: str) -> tuple[Selection, Estimate, Problem]:
    """Nothing is left out; what describes the fit and the rivals is taken on the cells that the law leaves open."""
    cells = gather(frame)
    middle = reference(unsaturated(frame))
    problem = of_runs(frame, "tobit", *middle)
    fit = estimate(problem, *middle)
    final = cells.initial - fit.predict(cells.rank, cells.length)
    reasons = {
        key: f"saturated by its predicted final loss {value:.3g}: a bound of ΔL where a run ended at or below ln 2"
        for key, value in zip(cells.key, final, strict=True)
        if value <= SATURATED
    }
    kept = (
        ~pd.MultiIndex.from_frame(frame[["rank", "length"]]).isin(list(reasons))
        if reasons
        else np.ones(len(frame), bool)
    )
    reference(gather(frame[kept]))  # which refuses when the law leaves fewer than 5 of them open
    return Selection(kept=np.asarray(kept), reasons=reasons), fit, dataclasses.replace(problem, warm=fit.theta)


def checked_replicates(bootstrap: int, seed: int = 0) -> int:
    """A number of resamples, or `UserError` for this or the seed they are drawn from."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise UserError(f"seed is {seed}; give a whole number, zero or more")
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
                f"(--method {names[0]})"
            )
        return frame, names[0] if names else None
    if method not in names:
        raise UserError(f"the results hold no method {method!r}; choose one of {', '.join(names)}")
    return frame[frame["method"].map(str) == method], method


def _beside(
    fit: Estimate, frame: pd.DataFrame, whole: Cells, used: Cells, reasons: dict[tuple[int, int], str]
) -> tuple[CellFit, ...]:
    place = {key: i for i, key in enumerate(used.key)}
    told = _told(frame)
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
                **told[key],
            )
        )
    return tuple(rows)


def _told(frame: pd.DataFrame) -> dict[tuple[int, int], dict[str, float | None]]:
    """What the runs of each cell report beside their losses, on average."""
    named = [name for name in MEASURED if name in frame.columns]
    read = {name: pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan) for name in named}
    numbers = pd.DataFrame(read, index=frame.index).assign(rank=frame["rank"], length=frame["length"])
    # The order of the rows must not show in the last bit of a mean.
    means = numbers.sort_values(["rank", "length", *named]).groupby(["rank", "length"]).mean()
    told: dict[tuple[int, int], dict[str, float | None]] = {}
    for key, row in zip(means.index, means.to_dict("records"), strict=True):
        told[key] = {str(name): float(value) for name, value in row.items() if np.isfinite(value)}
    return told
