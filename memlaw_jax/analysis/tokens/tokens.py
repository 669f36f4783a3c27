"""Reading the per-token arrays of a sweep, `tokens/<cell_id>.npz`, as one table with a row a counted answer token."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, folder_of, read_if_there, reading

NEEDED = ("nats_initial", "nats", "right", "sample")
OPTIONAL = ("labels", "pieces", "free_right")
UNKNOWN = "unknown"
_ROUNDING = 1e-3  # nats; −ln p of a certain token may come out a rounding below zero


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Every counted answer token of every finished run.

    Attributes:
      runs: a row a run: `cell_id`, `method`, `rank`, `length` (answer tokens), `seed`, `dataset`, `frozen` and
        `adapter` (precisions), `decoded` (whether greedy decoding was run).
      table: a row a token, sample after sample: `run` (row of `runs`), what `runs` says of it, `sample` (row of its
        record), `position` (from 0 within its sample), `p` (teacher-forced probability), `nats` (−ln p),
        `nats_initial` (the same without the adapter), `right` (arg-max right, teacher-forced), and, missing where the
        sweep did not write them, `label` (token id), `piece` (its text) and `free_right` (what free-running greedy
        decoding wrote at that position is the target's token).
      source: the folders read.
      diverged: runs left out, as dicts of rank, length, method: marked as diverged, or with a loss that is no number.
    """

    runs: pd.DataFrame
    table: pd.DataFrame
    source: tuple[str, ...]
    diverged: tuple[dict[str, Any], ...]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(self.runs["method"]))

    def of_method(self, method: str) -> pd.DataFrame:
        return self.table[self.table["method"] == method]


def read_tokens(source: Source | Iterable[Source] | Tokens) -> Tokens:
    """The tokens of a results folder, or of several.

    Raises `UserError`, naming the file, for a folder without `tokens/`, a missing or unreadable file, arrays that lack,
    are of unequal length or do not fit their record, and where no finished run is left.
    """
    if isinstance(source, Tokens):
        return source
    parts: list[Any] = [source] if isinstance(source, str | os.PathLike | pd.DataFrame) else list(source)
    records = read_frame([_records(part) for part in parts])
    if "cell_id" not in records:
        raise UserError(f"{_names(parts)}: the records have no cell_id, so their tokens cannot be found")
    kept, arrays, lost = [], [], [_who(run) for run in records.attrs["diverged"]]
    for row in records.to_dict("records"):
        record = {str(name): value for name, value in row.items()}
        found = _read(epath.Path(record["folder"]) / "tokens" / f"{record['cell_id']}.npz", int(record["length"]))
        if all(np.isfinite(found[name]).all() for name in ("nats", "nats_initial")):
            kept.append(record)
            arrays.append(found)
        else:
            lost.append(_who(record))
    if not kept:
        raise UserError(f"{_names(parts)} holds no finished run ({len(lost)} diverged); run the sweep first")
    runs = _runs(kept, arrays)
    return Tokens(runs=runs, table=_table(runs, arrays), source=tuple(map(os.fspath, parts)), diverged=tuple(lost))


def _records(part: Any) -> pd.DataFrame:
    if isinstance(part, pd.DataFrame):
        raise UserError("a table of runs holds no tokens; give the results folder that the sweep wrote")
    path, folder = as_path(part), folder_of(part)
    with reading(folder):
        there = (folder / "tokens").is_dir()
    frame = read_frame(path)
    if not there:
        raise UserError(
            f"{folder} has no tokens folder, where a sweep keeps the probability of every token; give the folder that "
            "`memlaw sweep` wrote, or run it again"
        )
    return frame.assign(folder=os.fspath(folder))


def _names(parts: list[Any]) -> str:
    return ", ".join(map(os.fspath, parts))


def _who(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("rank", "length", "method") if name in record}


def _read(path: epath.Path, length: int) -> dict[str, np.ndarray]:
    data = read_if_there(path)
    if data is None:
        raise UserError(
            f"{path} is missing, though results.jsonl has its record; copy the whole folder, or run it again"
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            found = {name: file[name] for name in (*NEEDED, *OPTIONAL) if name in file}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as problem:
        raise UserError(f"{path} cannot be read ({problem}); copy it again, or run its cell again") from problem
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise UserError(f"{path} has no array {', '.join(missing)}; {', '.join(NEEDED)} are needed")
    sizes = {name: array.shape for name, array in found.items()}
    if set(sizes.values()) != {(length,)}:
        said = ", ".join(f"{name} {list(shape)}" for name, shape in sizes.items())
        raise UserError(f"{path}: the record counts {length} answer tokens, the arrays hold {said}")
    if (np.diff(found["sample"].astype(np.int64)) < 0).any():
        raise UserError(f"{path}: tokens do not stand sample after sample (array sample falls)")
    if (found["nats"] < -_ROUNDING).any():
        raise UserError(f"{path}: nats holds {found['nats'].min():g}; −ln p cannot be negative")
    return found


def _runs(records: list[dict[str, Any]], arrays: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    rows = []
    for record, found in zip(records, arrays, strict=True):
        precision = record.get("precision")
        precision = precision if isinstance(precision, dict) else {}
        rows.append(
            {
                "cell_id": record["cell_id"],
                "method": _text(record.get("method")),
                "rank": int(record["rank"]),
                "length": int(record["length"]),
                "seed": int(record["seed"]) if pd.notna(record.get("seed")) else 0,
                "dataset": _text(record.get("dataset")),
                "frozen": precision.get("frozen", UNKNOWN),
                "adapter": precision.get("adapter", UNKNOWN),
                "decoded": "free_right" in found,
            }
        )
    return pd.DataFrame(rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else UNKNOWN


def _table(runs: pd.DataFrame, arrays: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    sizes = [len(found["nats"]) for found in arrays]
    run = np.repeat(np.arange(len(arrays)), sizes)
    joined = {name: np.concatenate([found[name] for found in arrays]) for name in NEEDED}
    sample = joined["sample"].astype(np.int32)
    first = np.ones(len(run), bool)
    first[1:] = (np.diff(run) != 0) | (np.diff(sample) != 0)
    at = np.arange(len(run))
    columns: dict[str, Any] = {"run": run.astype(np.int32)}
    for name in ("cell_id", "method", "dataset", "frozen"):
        codes, values = pd.factorize(runs[name])
        columns[name] = pd.Categorical.from_codes(codes[run], categories=values)
    columns |= {name: runs[name].to_numpy()[run] for name in ("rank", "length", "seed", "decoded")}
    nats = joined["nats"].astype(np.float64)
    columns |= {
        "sample": sample,
        "position": (at - np.maximum.accumulate(np.where(first, at, 0))).astype(np.int32),
        "p": np.exp(-np.maximum(nats, 0.0)),
        "nats": nats,
        "nats_initial": joined["nats_initial"].astype(np.float64),
        "right": joined["right"].astype(bool),
    }
    columns["label"] = _filled(arrays, "labels", sizes, "Int32")
    columns["free_right"] = _filled(arrays, "free_right", sizes, "boolean")
    columns["piece"] = _texts(arrays, sizes)
    return pd.DataFrame(columns)


def _filled(arrays: list[dict[str, np.ndarray]], name: str, sizes: list[int], kind: Any) -> Any:
    """An optional array of all runs, missing where a run has none."""
    parts = [
        pd.Series(found[name] if name in found else [pd.NA] * size, dtype=kind)
        for found, size in zip(arrays, sizes, strict=True)
    ]
    return pd.concat(parts, ignore_index=True).array


def _texts(arrays: list[dict[str, np.ndarray]], sizes: list[int]) -> pd.Categorical:
    """`pieces` of all runs, each text held once."""
    pool: dict[str, int] = {}
    codes = []
    for found, size in zip(arrays, sizes, strict=True):
        if "pieces" in found:
            texts, place = np.unique(found["pieces"].astype(str), return_inverse=True)
            codes.append(np.array([pool.setdefault(str(text), len(pool)) for text in texts])[place])
        else:
            codes.append(np.full(size, -1))
    return pd.Categorical.from_codes(np.concatenate(codes), categories=pd.Index(list(pool), dtype=object))  # type: ignore[arg-type]
