"""Reading results: our records, or any table with rank, length, loss_initial and loss_final, checked line by line."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.analysis import release
from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, is_local, reading

_SIZES, _LOSSES = ("rank", "length"), ("loss_initial", "loss_final")
NEEDED = _SIZES + _LOSSES
# Columns of what came out of a run; all others define it.
_RESULTS = (*_LOSSES, "token_accuracy", "exact_match", "p_min", "fraction_above_half", "first_failure", "seconds",
            "started", "stopped")  # fmt: skip
Source: TypeAlias = str | os.PathLike[str] | pd.DataFrame
_SUFFIXES = ".jsonl, .csv or .parquet"


def read_frame(source: Source | Iterable[Source]) -> pd.DataFrame:
    """Runs as a DataFrame, one row a run, from a table, a file, a results folder, or a list of these.

    Files and folders are local or in a bucket (`gs://…`). A folder stands for its `results.jsonl`, or, where it is
    local and has none, for the output tree of the paper's release (`analysis/release.py`); files are `.jsonl` (one
    record a line), `.csv` or `.parquet`. The columns `rank` and `length` (answer tokens) are whole and positive,
    `loss_initial` and `loss_final` (nats per answer token) finite and not negative; every other column passes through.
    A torn last line of a `.jsonl`, which a killed sweep leaves behind, is left out with a warning. Rows with `stopped`
    = "diverged" are left out and listed in `frame.attrs["diverged"]` (rank, length, method); `frame.attrs["source"]`
    names the inputs.

    Raises `UserError`, naming file, line and value, for anything else: no such file, a missing column, a bad value,
    the same run twice.
    """
    if isinstance(source, str | os.PathLike | pd.DataFrame):
        parts: list[Source] = [source]
    else:
        parts = list(source)
    if not parts:
        raise UserError("no results were given; name a results folder, or a .jsonl, .csv or .parquet file")
    frames, places, names, diverged = [], [], [], []
    for part in parts:
        frame, where, name = _load(part)
        frame, lost = _without_diverged(frame.assign(**_checked(frame, where, _SIZES)))
        frames.append(frame.assign(**_checked(frame, where, _LOSSES)))
        places += [where[i] for i in frame.index]
        names += list(frame.attrs.get("source", ())) or [name]
        diverged += list(frame.attrs.get("diverged", ())) + lost
    for frame in frames:
        frame.attrs = {}
    whole = pd.concat(frames, ignore_index=True)
    if whole.empty:
        raise UserError(f"{', '.join(names)} holds no finished run ({len(diverged)} diverged); run the sweep first")
    _check_twice(whole, places)
    whole.attrs.update(source=tuple(names), diverged=tuple(diverged))
    return whole


def _load(part: Source) -> tuple[pd.DataFrame, list[str], str]:
    """The raw table with a fresh index, where each row stands, and the name of the source."""
    if isinstance(part, pd.DataFrame):
        frame, name = part.reset_index(drop=True), "the DataFrame"
        frame.attrs = dict(part.attrs)
        where = [f"{name}, row {label}" for label in part.index]
    else:
        path = as_path(part)
        if is_local(path) and release.recognises(path):
            return *release.read_release(path), os.fspath(path)
        with reading(path):
            path = path / "results.jsonl" if path.is_dir() else path
            there = path.exists()
        name = os.fspath(path)
        if not there:
            raise UserError(f"there is no {name}; give a folder with results.jsonl, or a {_SUFFIXES} file")
        readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
        kind = path.suffix.lower()
        if kind not in readers:
            raise UserError(f"{name} ends in '{path.suffix}'; results are read from {_SUFFIXES}")
        with reading(path):
            frame, where = readers[kind](path)
    missing = [column for column in NEEDED if column not in frame.columns]
    if missing:
        raise UserError(f"{name} has no column {', '.join(missing)}; {', '.join(NEEDED)} are needed")
    return frame, where, name


def _read_jsonl(path: epath.Path) -> tuple[pd.DataFrame, list[str]]:
    lines = [(i, text) for i, text in enumerate(path.read_bytes().split(b"\n"), 1) if text.strip()]
    records: list[dict[str, Any]] = []
    where: list[str] = []
    for number, text in lines:
        try:
            record = json.loads(text)
        except ValueError as problem:  # also bytes that are no UTF-8
            if number == lines[-1][0]:
                warnings.warn(f"{path}, line {number} is torn and was left out; resume the sweep", stacklevel=4)
                break
            raise UserError(f"{path}, line {number} is no JSON ({problem}); mend or remove that line") from problem
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} is {text.decode()[:40]}; every line is one JSON object")
        records.append(record)
        where.append(f"{path}, line {number}")
    if not records:
        raise UserError(f"{path} holds no complete record; run the sweep first")
    return pd.DataFrame(records), where


def _read_csv(path: epath.Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        # Blank lines are kept while reading so that a row's number is its line in the file; spreadsheets write a BOM.
        options: Any = {"skip_blank_lines": False, "skipinitialspace": True, "index_col": False}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a line with more values than columns
            frame = pd.read_csv(io.BytesIO(path.read_bytes()), encoding="utf-8-sig", **options)
    except (ValueError, pd.errors.ParserWarning) as problem:  # ValueError: parser errors and undecodable bytes
        said = " ".join(str(problem).split())
        raise UserError(f"{path} is no CSV table ({said}); it needs a header line and a line a run") from problem
    where = [f"{path}, line {i + 2}" for i in range(len(frame))]
    filled = ~frame.isna().all(axis=1)
    return frame[filled].reset_index(drop=True), [place for place, keep in zip(where, filled, strict=True) if keep]


def _read_parquet(path: epath.Path) -> tuple[pd.DataFrame, list[str]]:
    try:
        frame = pd.read_parquet(io.BytesIO(path.read_bytes())).reset_index(drop=True)
    except ImportError as problem:
        raise UserError(f"{path} needs a Parquet reader; pip install pyarrow, or give the table as .csv") from problem
    except (ValueError, OSError) as problem:
        raise UserError(f"{path} is no Parquet table ({problem}); write it again, or give it as .csv") from problem
    return frame, [f"{path}, row {i}" for i in range(len(frame))]


def _without_diverged(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    if "stopped" not in frame.columns:
        return frame, []
    lost = frame["stopped"] == "diverged"
    columns = [column for column in ("rank", "length", "method") if column in frame.columns]
    return frame[~lost], frame.loc[lost, columns].to_dict("records")  # type: ignore[return-value]


def _checked(frame: pd.DataFrame, where: list[str], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """These columns as numbers."""
    columns = {}
    for column in names:
        whole = column in _SIZES
        wanted = "a whole positive number" if whole else "a finite loss in nats, zero or more"
        numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        with np.errstate(invalid="ignore"):
            fine = np.isfinite(numbers) & (numbers >= (1 if whole else 0))
            fine &= (numbers % 1 == 0) if whole else True
        if not fine.all():
            first = int(np.flatnonzero(~fine)[0])
            value = frame[column].iloc[first]
            shown = "empty" if value is None or value is pd.NA or value == "" else value
            raise UserError(f"{where[frame.index[first]]}: {column} is {shown}; it must be {wanted}")
        columns[column] = numbers.astype(int) if whole else numbers
    return columns


def _check_twice(frame: pd.DataFrame, places: list[str]) -> None:
    """The same run twice would count as two seeds and narrow every interval."""
    rows: dict[tuple[str, ...], int] = {}
    ids: dict[str, int] = {}
    seeds: dict[tuple[str, ...], int] = {}
    # What defines a run, as far as a table of others says: with a seed column two rows may not share it all.
    defining = list(frame.drop(columns=[name for name in _RESULTS if name in frame.columns]).itertuples(index=False))
    names = frame["cell_id"] if "cell_id" in frame.columns else [None] * len(frame)
    for i, (row, name) in enumerate(zip(frame.itertuples(index=False), names, strict=True)):
        first, what = rows.setdefault(tuple(map(str, row)), i), "the same run"
        if first == i and isinstance(name, str):
            first, what = ids.setdefault(name, i), f"cell_id {name}"
        if first == i and "seed" in frame.columns:
            first, what = seeds.setdefault(tuple(map(str, defining[i])), i), "the same run with another result"
        if first != i:
            run = frame.iloc[i]
            raise UserError(
                f"{places[i]}: {what} (rank {run['rank']:.0f}, length {run['length']:.0f}, "
                f"loss_final {run['loss_final']:g}) "
                f"was already given at {places[first]}; remove one, or add a seed column"
            )
