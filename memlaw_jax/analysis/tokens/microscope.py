"""Single tokens under the microscope: why a low loss may come with no exact recall (PAPER.md, section 1, claim 2)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.frame import Source
from memlaw_jax.analysis.tokens import phase
from memlaw_jax.analysis.tokens import stubborn as stubbornness
from memlaw_jax.analysis.tokens.phase import HalfCheck
from memlaw_jax.analysis.tokens.spearman import Correlation
from memlaw_jax.analysis.tokens.tokens import Tokens, read_tokens
from memlaw_jax.errors import UserError

SCHEMA = 1
_LISTED = 200  # stubborn tokens in the JSON; the CSV has all


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """First sub-threshold position against first failure, over samples (of all methods and ranks, or of one).

    Attributes:
      samples: all of them; each is one of the following four.
      both: below the threshold somewhere, and failing.
      only_below: below the threshold somewhere, yet reproduced verbatim.
      only_failed: failing with no token below the threshold; impossible in float32 at a threshold of ½.
      neither: above the threshold throughout, and reproduced.
      same: of `both`, those that fail at the very first token below the threshold.
      before: of `both`, those that fail before it; impossible in float32 at ½.
      correlation: Spearman's ρ over `both`.
    """

    method: str | None
    rank: int | None
    samples: int
    both: int
    only_below: int
    only_failed: int
    neither: int
    same: int
    before: int
    correlation: Correlation


@dataclass(frozen=True, kw_only=True, eq=False)
class Microscope:
    """What `microscope` found. Positions count from 0 within a sample, losses are nats per answer token.

    Attributes:
      threshold: the probability that "below" and "above" refer to, except in `checks`, which are about ½.
      runs: a row a run: final loss, teacher-forced and free-running recall, tokens below the threshold, and
        `decoupled`: a mean loss below that of the threshold, yet no sample recalled.
      samples: a row a sample of a run (`phase.samples`).
      order: `Order` over all samples first, then by method and rank.
      checks: the theorem at ½, by precision.
      recall_vs_p: share of right tokens in bins of p (`phase.recall_vs_p`).
      failures: where samples fail first and tokens are wrong (`phase.failures`).
      asked: runs that hold most of their tokens above the threshold, of which `stubborn` and, by rank,
        `stubborn_by_rank` tell the tokens that stay below (`stubborn.stubborn`).
      diverged: runs left out.
    """

    source: tuple[str, ...]
    threshold: float
    runs: pd.DataFrame
    samples: pd.DataFrame
    order: tuple[Order, ...]
    checks: tuple[HalfCheck, ...]
    recall_vs_p: pd.DataFrame
    failures: pd.DataFrame
    asked: int
    stubborn: pd.DataFrame
    stubborn_by_rank: pd.DataFrame
    diverged: tuple[dict[str, Any], ...]

    @property
    def decoupled(self) -> pd.DataFrame:
        """Runs with a low mean loss and nothing recalled, the lowest loss first."""
        return self.runs[self.runs["decoupled"]].sort_values("loss_final", kind="stable")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types, samples as numbers of equal ones; null where something is not known."""
        keys = ["method", "rank", "first_below", "first_failure", "first_free_failure"]
        pairs = self.samples.groupby(keys, observed=True, dropna=False).size().rename("samples").reset_index()
        return {
            "schema": SCHEMA,
            "source": list(self.source),
            "threshold": self.threshold,
            "diverged": [{name: _plain(value) for name, value in run.items()} for run in self.diverged],
            "order": [asdict(order) for order in self.order],
            "half": [asdict(check) | {"below": check.below, "enough": check.enough} for check in self.checks],
            "runs": _rows(self.runs),
            "samples": _rows(pairs),
            "recall_vs_p": _rows(self.recall_vs_p),
            "failures": _rows(self.failures),
            "stubborn": {"runs_asked": self.asked, "tokens": len(self.stubborn),
                         "listed": _rows(self.stubborn.head(_LISTED))},
        }  # fmt: skip

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, out: str | os.PathLike[str]) -> list[epath.Path]:
        """Write `microscope.json`, `stubborn.csv`, `stubborn_by_rank.csv` and `stubborn.md`; returns their paths."""
        place = files.folder(out)
        table = stubbornness.markdown(self.stubborn, self.stubborn_by_rank, self.asked, len(self.runs), self.threshold)
        contents = {
            "microscope.json": self.to_json(),
            "stubborn.csv": self.stubborn.drop(columns="rank").to_csv(index=False),
            "stubborn_by_rank.csv": self.stubborn_by_rank.to_csv(index=False),
            "stubborn.md": table,
        }
        return [files.write(place / name, content) for name, content in contents.items()]


def microscope(source: Source | Iterable[Source] | Tokens, threshold: float = phase.HALF) -> Microscope:
    """Look at every token of a results folder, or of several.

    `threshold` is the probability below which a token counts as stubborn; the theorem is about ½ whatever it is.
    Raises `UserError` for a user's mistake (`read_tokens`), and for a threshold that is no probability.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold is {threshold}; it must be a probability between 0 and 1")
    tokens = read_tokens(source)
    found = phase.samples(tokens, threshold)
    orders = [_order(found, None, None)]
    for (method, _), mine in found.groupby(["method", "rank"], observed=True, sort=True):
        orders.append(_order(mine, str(method), int(mine["rank"].iloc[0])))
    return Microscope(
        source=tokens.source,
        threshold=threshold,
        runs=_runs(tokens, found, threshold),
        samples=found,
        order=tuple(orders),
        checks=tuple(phase.check_half(tokens, found)),
        recall_vs_p=phase.recall_vs_p(tokens),
        failures=phase.failures(tokens, found),
        asked=int(stubbornness.asked(tokens, threshold).sum()),
        stubborn=stubbornness.stubborn(tokens, threshold),
        stubborn_by_rank=stubbornness.stubborn(tokens, threshold, by_rank=True),
        diverged=tokens.diverged,
    )


def _order(found: pd.DataFrame, method: str | None, rank: int | None) -> Order:
    below, failed = found["first_below"].notna(), found["first_failure"].notna()
    lag = (found["first_failure"] - found["first_below"])[below & failed]
    return Order(
        method=method,
        rank=rank,
        samples=len(found),
        both=int((below & failed).sum()),
        only_below=int((below & ~failed).sum()),
        only_failed=int((~below & failed).sum()),
        neither=int((~below & ~failed).sum()),
        same=int((lag == 0).sum()),
        before=int((lag < 0).sum()),
        correlation=phase.correlate(found),
    )


def _runs(tokens: Tokens, found: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Loss and recall of every run, from its tokens alone, so that all columns are about the same weights."""
    table, runs = tokens.table, tokens.runs
    groups = table.groupby("run")
    by_run = found.groupby("run")
    free = table["free_right"].astype("Float64").groupby(table["run"]).mean()  # a run without any stays missing
    whole, free_whole = found["first_failure"].isna(), found["first_free_failure"].isna()
    made = runs.drop(columns="dataset").assign(
        samples=by_run.size(),
        loss_initial=groups["nats_initial"].mean(),
        loss_final=groups["nats"].mean(),
        token_accuracy=groups["right"].mean(),
        token_accuracy_free=free.astype(float),
        exact_match=whole.groupby(found["run"]).mean(),
        exact_match_free=free_whole.groupby(found["run"]).mean().where(runs["decoded"]),
        below=by_run["below"].sum(),
        p_min=groups["p"].min(),
    )
    recalled = made["exact_match_free"].fillna(made["exact_match"])
    return made.assign(decoupled=(made["loss_final"] <= -math.log(threshold)) & (recalled == 0))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]  # type: ignore[misc]


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
