"""Capacity: how many bits an adapter holds, how many tokens it recalls, and how that stands beside the literature.

Three measures, all in bits of a cell (mean over its runs), with ℓ answer tokens and losses in nats per token:

- information gain, ΔL · ℓ / ln 2: what the adapter saves when its text is coded with it. An upper view of memory, for
  learning the format, the style, or only to be less wrong than the base counts too.
- excess over held-out items scored by the same adapter, (L_heldout − L_final) · ℓ / ln 2: what it knows of these items
  beyond what it learned about items of their kind.
- bits stored, max(0, H − L_final · ℓ / ln 2), where the entropy H of the process that drew the answers is known: the
  unintended memorisation of Morris et al. with that process as the reference. Never more than H.

How H is known stands in `capacity_bits`.

Beside these stand, from the literature:

- 3.6 bits per parameter: Morris et al., "How much do language models memorize?" (2025), GPT-style models trained from
  scratch on uniform tokens;
- 2 bits per parameter: Allen-Zhu and Li, "Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws"
  (2024), each piece of knowledge seen 1000 times; about 1 where it is seen 100 times;
- "parameters ≥ completion tokens", a rule of thumb for the rank: Thinking Machines Lab, "LoRA Primer" of the Tinker
  documentation (2025).

Both figures are for whole models, every parameter trained; an adapter's parameters reach its frozen base only through
the modules they sit in, so falling short of them is no fault of the training as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.capacity.bits import cells_of, runs_of
from memlaw_jax.analysis.capacity.summary import Overall, Rule, over_ranks, rank_row, rule_of_thumb
from memlaw_jax.analysis.cells import mixtures
from memlaw_jax.analysis.comparison.methods_pairs import plain
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law.fit import checked_replicates
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.errors import UserError

MORRIS, ALLEN_ZHU = 3.6, 2.0  # bits per parameter
MEASURES = {"stored": "bits stored", "heldout": "excess bits over held-out items", "gain": "information gain in bits"}
_SCHEMA = 1
_UNITS = (
    "bits of a whole cell (mean over runs), answer tokens, bits per trainable parameter and per byte of the adapter as "
    "trained; capacity intervals are Student's t over the runs of the cell that holds most; recalled_low to "
    "recalled_high is a 95 % interval for the longest length recalled, high exclusive, null where it is open"
)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What adapters hold, cell by cell and rank by rank. Columns are nan (None, for yes or no) where not known.

    `measure` is the strictest of `MEASURES` that the results allow; `bits` and everything derived from it follow it.

    Attributes:
      cells: a row for each rank and length: `runs`, `samples`, `effective_parameters`, `exposures` (token visits over
        length), `loss_initial`, `loss_final`, `exact_match`, `recalled` (exact match ≥ threshold), `code_bits`
        (L_final · ℓ / ln 2), `gain_bits`, `heldout_bits`, `source_bits`, `stored_bits`, `bits`, `bits_per_parameter`,
        `gain_bits_per_parameter`, `byte_width`, `bits_per_byte`, `tokens_per_parameter`, `follows_rule` (parameters ≥
        ℓ), and with a law `predicted_gain_bits`.
      ranks: a row for each rank. `capacity_bits` is the most that any length holds, `at_length`, with Student's
        interval over that cell's runs (`capacity_low`, `capacity_high`), cut at 0 and at the source's entropy;
        `at_longest` says that this is the longest length tried, `all_recalled` that every length was recalled: either
        makes it a `lower_bound`; `last_step` is the exponent with which bits still grow with ℓ over the last two
        lengths (1: nothing is lost yet, 0: nothing is added, nan: one length). `recalled_length` is the longest ℓ
        recalled (0 for none), between `bracket_low`, the end of the unbroken series of recalled lengths from the
        shortest on, and `bracket_high`, the next length tried after the longest recalled (infinite where there is
        none): where recall is `monotone`, the two lengths between which it ends. `recalled_low` and `recalled_high`
        widen the bracket by resampling seeds.
      rule: the rule of thumb's 2 × 2 table.
      missing: what could not be computed, and why.
    """

    method: str | None
    tasks: tuple[str, ...]
    threshold: float
    measure: str
    cells: pd.DataFrame
    ranks: pd.DataFrame
    overall: Overall
    rule: Rule | None
    growth: float | None
    missing: dict[str, str]
    notes: tuple[str, ...]
    diverged: int
    source: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON types; null where a number is not known."""
        single = ("method", "threshold", "measure", "growth", "missing", "diverged")
        return {
            "schema": _SCHEMA,
            "units": _UNITS,
            "literature": {"morris_2025": MORRIS, "allen_zhu_2024": ALLEN_ZHU, "unit": "bits per parameter"},
            **{name: getattr(self, name) for name in single},
            **{name: list(getattr(self, name)) for name in ("tasks", "notes", "source")},
            "overall": plain(asdict(self.overall)),
            "rule": asdict(self.rule) if self.rule else None,
            **{name: [plain(row) for row in getattr(self, name).to_dict("records")] for name in ("ranks", "cells")},
        }

    def save(self, out: str | os.PathLike[str]) -> list[epath.Path]:
        """Write `capacity.csv` (cells), `capacity.json` (all) and `capacity.md` (ranks) into a folder."""
        from memlaw_jax.analysis.capacity.words import capacity_table

        place = files.folder(out)
        contents = {
            "capacity.csv": self.cells.to_csv(index=False),
            "capacity.json": json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "capacity.md": capacity_table(self),
        }
        return [files.write(place / name, content) for name, content in contents.items()]


def measure_capacity(
    source: Source | Iterable[Source],
    law: Law | None = None,
    *,
    threshold: float = 1.0,
    bootstrap: int = 400,
    seed: int = 0,
    method: str | None = None,
    ratio: float | None = None,
) -> Capacity:
    """Bits and tokens that the adapters of one method hold.

    `source` is anything `read_frame` takes; every column beyond the four it needs is used where it is there: `method`,
    `task`, `seed`, `samples`, `vocab_size`, `effective_parameters`, `token_visits`, `exact_match`, `precision`,
    `heldout` (a mapping with `loss` in nats per token and, better, `samples` and `length`, its answer tokens: items of
    another length are then compared item by item) or `heldout_loss`, and `source_bits` (entropy of the run's answers).
    `law` adds the gain that it predicts and, where the results hold several methods, picks its own; `method` does that
    without a law. A cell counts as recalled when the mean of its runs' exact match reaches `threshold`.

    `ratio` is the share of random tokens of a long context whose records do not tell. Unless it is given, such records
    are taken for the default ratio 1 where the base's loss is that of random tokens, ln V nats or more, with a note.

    The longest length recalled has two sources of doubt. Lengths were tried on a grid, so recall ends somewhere between
    two of them: the bracket. And seeds vary: each of `bootstrap` resamples draws seeds (whole seeds over all lengths
    where the records name them, runs within each cell where not) and brackets anew; the interval runs from the 2.5th
    percentile of the lower ends to the 97.5th of the upper ends. With a single seed it is the bracket itself.

    The capacity of a rank has Student's t over the runs of its fullest cell, for a bootstrap of three numbers would be
    too narrow. It ignores that the fullest of several lengths was picked: simulated with 2 to 5 seeds it covers the
    truth in 95 % of cases where one length stands out, and in 88 to 92 % where six hold the same.

    Raises `UserError` for bad input, several methods, and a threshold, ratio or bootstrap out of range.
    """
    replicates = checked_replicates(bootstrap, seed)
    _check_share("threshold", threshold, "the exact match that counts as recalled, above 0 and up to 1", above=True)
    if ratio is not None:
        _check_share("ratio", ratio, "the share of random tokens, 0 to 1")
    frame = read_frame(source)
    lost = frame.attrs["diverged"]
    frame, method = _one_method(frame, method or (law.method if law else None))
    runs, why, notes = runs_of(frame, ratio)
    cells = cells_of(runs, threshold, law)
    known = [name for name in ("stored", "heldout") if cells[f"{name}_bits"].notna().any()]
    measure = known[0] if known else "gain"
    cells["bits"] = cells[f"{measure}_bits"]
    cells["bits_per_parameter"] = cells["bits"] / cells["effective_parameters"]
    cells["bits_per_byte"] = cells["bits_per_parameter"] / cells["byte_width"]
    rng = np.random.default_rng(seed)
    groups = [(part, runs[runs["rank"] == rank]) for rank, part in cells.groupby("rank", sort=True)]
    ranks = pd.DataFrame([rank_row(part, mine, measure, threshold, replicates, rng) for part, mine in groups])
    if measure != "gain" and (left := int(cells["bits"].isna().sum())):
        notes += (f"{left} of {len(cells)} cells have no {MEASURES[measure]}; their ranks are measured without them.",)
    if cells["runs"].max() == 1:
        why["intervals"] = "every cell has a single run, so nothing tells how seeds vary"
    return Capacity(
        method=method,
        tasks=tuple(sorted(map(str, frame["task"].dropna().unique()))) if "task" in frame else (),
        threshold=float(threshold),
        measure=measure,
        cells=cells,
        ranks=ranks,
        overall=over_ranks(cells, ranks, replicates, rng),
        rule=rule_of_thumb(cells),
        growth=None if law is None else 1 - law.beta,
        missing=why,
        notes=(*notes, *mixtures(frame)),
        diverged=sum(method is None or run.get("method", method) == method for run in lost),
        source=tuple(frame.attrs["source"]),
    )


def _check_share(name: str, value: float, what: str, above: bool = False) -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and 0 <= value <= 1 and (value > 0 or not above)):
        raise UserError(f"{name} is {value}; give {what}")


def _one_method(frame: pd.DataFrame, method: str | None) -> tuple[pd.DataFrame, str | None]:
    names = sorted(str(name) for name in frame["method"].dropna().unique()) if "method" in frame else []
    if not names:
        return frame, method
    if method is None and len(names) > 1:
        raise UserError(
            f"the results hold {len(names)} methods ({', '.join(names)}); measure one, as method={names[0]!r}"
        )
    if method is not None and method not in names:
        raise UserError(f"the results hold no method {method!r}; choose one of {', '.join(names)}")
    chosen = method or names[0]
    return frame[frame["method"] == chosen] if len(names) > 1 else frame, chosen
