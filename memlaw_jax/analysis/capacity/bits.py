"""Bits of each run and cell: what was gained, what held-out items cost more, and what of the source is stored.

The entropy of the source of the answers is the record's `source_bits`, which alone counts where the results have that
column. For results from before it was written, it is ℓ · log₂ V, V the `vocab_size`, for long-context tokens drawn at
random (ratio 1; special tokens are never drawn, so this is a little too much), and log₂ of the ways to pick n of the
4·10⁹ ten-digit numbers that begin with 6 to 9, in order, for a phone book of n records, taken for one of ours (their
names are in the query). The entropy of natural text is not known: nothing is said about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from memlaw_jax.analysis.capacity.recall import recalled
from memlaw_jax.analysis.law.law import Law

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PHONE_NUMBERS = 4_000_000_000
_LN2 = float(np.log(2.0))


def runs_of(frame: pd.DataFrame, ratio: float | None) -> tuple[pd.DataFrame, dict[str, str], tuple[str, ...]]:
    """Every run with its bits, why something is nowhere to be had, and notes on what was assumed."""
    rank, length = frame["rank"].to_numpy(), frame["length"].to_numpy(float)
    initial, final = (frame[name].to_numpy(float) for name in ("loss_initial", "loss_final"))
    source, reason, notes = _source_bits(frame, ratio)
    columns = {
        "samples": _numbers(frame, "samples"),
        "effective_parameters": _numbers(frame, "effective_parameters"),
        "exposures": _numbers(frame, "token_visits") / length,
        "loss_initial": initial,
        "loss_final": final,
        "exact_match": _numbers(frame, "exact_match"),
        "code_bits": final * length / _LN2,
        "gain_bits": (initial - final) * length / _LN2,
        "heldout_bits": _heldout_bits(frame),
        "source_bits": source,
        "excess_bits": source - final * length / _LN2,
        "byte_width": np.array([_width(value) for value in _column(frame, "precision")], float),
    }
    runs = pd.DataFrame({"rank": rank, "length": frame["length"].to_numpy(), **columns})
    whole_seeds = "seed" in frame and frame["seed"].notna().all()
    runs["seed"] = frame["seed"].to_numpy() if whole_seeds else np.nan
    # Sums of floats depend on their order, so the order is fixed by the values themselves.
    runs = runs.sort_values(["rank", "length", "loss_final", "loss_initial"], kind="stable").reset_index(drop=True)
    reasons = {
        "effective_parameters": "the results do not say effective_parameters, so there are no bits per parameter",
        "exposures": "the results do not say token_visits, so exposures are not known",
        "exact_match": "the results do not say exact_match, so nothing is known of recall",
        "heldout_bits": "the records hold no score of held-out items (heldout.loss)",
        "source_bits": reason,
        "byte_width": "the results do not say in what precision the adapter was trained",
    }
    return runs, {name: text for name, text in reasons.items() if runs[name].isna().all()}, notes


def cells_of(runs: pd.DataFrame, threshold: float, law: Law | None) -> pd.DataFrame:
    """The mean of each cell's runs, and what follows from it."""
    groups = runs.drop(columns="seed").groupby(["rank", "length"], sort=True)
    cells = groups.mean().assign(runs=groups.size()).reset_index()
    length, size = cells["length"], cells["effective_parameters"]
    match = cells["exact_match"]
    cells["recalled"] = _yes_or_no(recalled(match, threshold), match.notna())
    cells["stored_bits"] = cells.pop("excess_bits").clip(lower=0)
    cells["gain_bits_per_parameter"] = cells["gain_bits"] / size
    cells["tokens_per_parameter"] = length / size
    cells["follows_rule"] = _yes_or_no(size >= length, size.notna())
    if law is not None:
        cells["predicted_gain_bits"] = law.predict(cells["rank"], length) * length.to_numpy() / _LN2
    return cells


def _column(frame: pd.DataFrame, name: str) -> Any:
    return frame[name] if name in frame else [None] * len(frame)


def _numbers(frame: pd.DataFrame, name: str) -> Float[np.ndarray, " N"]:
    """A column as numbers, nan where it is missing, no number, or not finite."""
    values = pd.to_numeric(pd.Series(list(_column(frame, name)), dtype=object), errors="coerce").to_numpy(float)
    return np.where(np.isfinite(values), values, np.nan)


def _width(precision: Any) -> float:
    """Bytes of an adapter's parameter."""
    name = precision.get("adapter") if isinstance(precision, dict) else precision
    return _BYTES.get(name, np.nan) if isinstance(name, str) else np.nan


def _heldout_bits(frame: pd.DataFrame) -> Float[np.ndarray, " N"]:
    told = [value if isinstance(value, dict) else {} for value in _column(frame, "heldout")]
    loss, items, tokens = (
        _numbers(pd.DataFrame({key: [score.get(key) for score in told]}), key) for key in ("loss", "samples", "length")
    )
    loss = np.where(np.isnan(loss), _numbers(frame, "heldout_loss"), loss)
    length, final = (frame[name].to_numpy(float) for name in ("length", "loss_final"))
    by_item = tokens / items * _numbers(frame, "samples")  # answer tokens of as many held-out items
    return (loss * np.where(np.isnan(by_item), length, by_item) - final * length) / _LN2


def _source_bits(frame: pd.DataFrame, ratio: float | None) -> tuple[Float[np.ndarray, " N"], str, tuple[str, ...]]:
    """Entropy of each run's answers, nan where it is not known; why not; and what was assumed."""
    why = "the entropy of the source is not known (natural text, or a task that does not tell it)"
    if "source_bits" in frame:
        return _numbers(frame, "source_bits"), why, ()
    vocab, samples = (_numbers(frame, name) for name in ("vocab_size", "samples"))
    length, initial = (frame[name].to_numpy(float) for name in ("length", "loss_initial"))
    task = np.array([str(name) for name in _column(frame, "task")])
    shares = _numbers(frame, "ratio")
    silent = np.isnan(shares)
    shares = np.where(silent, np.nan if ratio is None else ratio, shares)
    with np.errstate(invalid="ignore"):
        looks_random = initial >= np.log(vocab)  # no code is shorter than log₂ V bits a token on average
    random = (task == "long_context") & ((shares == 1) | (np.isnan(shares) & looks_random))
    book = (task == "phonebook") & (samples >= 1)
    bits = np.where(random, length * np.log2(vocab), np.nan)
    bits[book] = [_phonebook_bits(int(n)) for n in samples[book]]
    assumed = random & np.isnan(shares)
    notes: tuple[str, ...] = ()
    if assumed.any():
        notes = (
            f"{int(assumed.sum())} long-context runs do not say their ratio; their tokens were taken for random ones "
            "(ratio 1), since the base's loss is ln V or more. Were there text among them, bits stored would be too "
            "high; a column ratio in the results settles it.",
        )
    if "task" not in frame:
        why = "the results do not say their task, so the entropy of the source is not known (source_bits would say it)"
    return bits, why, notes


def _phonebook_bits(records: int) -> float:
    """Distinct numbers in order; that they are distinct takes n² / (2 · 4·10⁹ · ln 2) bits off n · log₂(4·10⁹)."""
    return float(np.log2(_PHONE_NUMBERS - np.arange(records, dtype=float)).sum())


def _yes_or_no(values: Any, known: Any) -> pd.Series:
    return pd.Series([bool(x) if sure else None for x, sure in zip(values, known, strict=True)], dtype=object)
