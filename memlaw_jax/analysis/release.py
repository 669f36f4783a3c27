"""Reading the output tree of the paper's PyTorch release (PAPER.md, section 2) as runs.

    .../<task>/<method>/<model>/<subset>/length_<L>/layer_<l>/rank_<R>/losses.csv                    one row a step
    .../<task>/<method>/<model>/<subset>/length_<L>/layer_<l>/rank_<R>/final_loss/train_losses.csv   one row a sample

Rank and length are taken from the path wherever they stand, so a flat folder of `rank_8_length_1000_losses.csv` will
do. A final-loss pass (dropout off) wins over the training log of the same run. The release's own
`summary_final_loss.csv` is passed over: the script that writes it is not part of the release, so its layout is unknown.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memlaw_jax.errors import UserError

FINAL, TRAINING = "final_loss", "last training epoch, dropout on"
_LOG = re.compile(r"(?:^|.*[_-])(?:losses|final_loss)\.csv$", re.IGNORECASE)
_METHOD = re.compile(r"(?:^|.*[^a-z0-9])(sft|memft[_-](?:ot|sw))(?![a-z0-9])", re.IGNORECASE)
_MODEL = re.compile(r"qwen|llama|mistral|gemma|\d+b\b", re.IGNORECASE)
_SIZE = re.compile(r"(?<![a-z])(length|layer|rank|seed)[_=-]?(\d+)", re.IGNORECASE)
_IDENTITY = ("task", "method", "model", "dataset", "length", "layers", "rank", "seed")
_LOSSES, _TOKENS = ("pos_steer_loss", "pos_ref_loss"), "token_nums"


def recognises(path: epath.Path) -> bool:
    """Whether this is a folder with the release's loss files (and no `results.jsonl`), or one such file."""
    if path.is_dir():
        return not (path / "results.jsonl").exists() and any(True for _ in _logs(path))
    if path.suffix.lower() != ".csv" or not path.exists():
        return False
    with path.open("rb") as file:
        return _LOSSES[0].encode() in file.readline()


def read_release(path: epath.Path) -> tuple[pd.DataFrame, list[str]]:
    """Runs of a tree or of one file, and the file that each was read from.

    `loss_final` and `loss_initial` are means of `pos_steer_loss` and `pos_ref_loss` weighted by tokens, in nats: over
    the final-loss pass, or, where there is none, over the last and the first epoch of the training log; `loss_from`
    says which. `loss_over` is "target tokens" where the `target_only` columns exist and "trained tokens" (the target
    with its closing chat tokens) otherwise. `task`, `method`, `model`, `dataset`, `layers` and `seed` are given as far
    as the path names them; a last loss that is not finite makes a run `stopped` = "diverged".

    Warns once of runs without a final-loss pass, and of trainings without an end. Raises `UserError`, naming file,
    line and value, for a file that cannot be read, a path without rank or length, and two files for one run.
    """
    files = list(_logs(path)) if path.is_dir() else [path]
    chosen: dict[tuple[Any, ...], tuple[str, epath.Path, dict[str, Any]]] = {}
    unfinished = 0
    for file in files:
        kind = FINAL if _is_final(file) else TRAINING
        if kind == TRAINING and path.is_dir() and file.name == "train_losses.csv":  # renamed losses.csv at the end
            unfinished += 1
            continue
        facts = _facts(file)
        key = tuple(str(facts.get(name)) for name in _IDENTITY)
        before = chosen.get(key)
        if before is not None and before[0] == kind:
            raise UserError(
                f"{before[1]} and {file} are both the losses of rank {facts['rank']}, length {facts['length']}; keep "
                "one, or name what sets them apart in their paths (seed_1, layer_24, a model, a method)"
            )
        if before is None or kind == FINAL:
            chosen[key] = (kind, file, facts)
    if unfinished:
        warnings.warn(
            f"{path}: {unfinished} trainings have no losses.csv, only the train_losses.csv of a run that did not end; "
            "they were left out",
            stacklevel=4,
        )
    if not chosen:
        raise UserError(f"{path} holds no finished run of the release (losses.csv, or final_loss/train_losses.csv)")
    rows = [facts | _losses(file, kind) for kind, file, facts in chosen.values()]
    kinds = [kind for kind, _, _ in chosen.values()]
    if TRAINING in kinds:
        warnings.warn(
            f"{path}: {kinds.count(TRAINING)} of {len(kinds)} runs have no final-loss pass; their final loss is that "
            "of the last training epoch, with dropout on",
            stacklevel=4,
        )
    return pd.DataFrame(rows), [str(file) for _, file, _ in chosen.values()]


def _logs(folder: epath.Path) -> Iterator[epath.Path]:
    for root, folders, names in folder.walk():
        folders.sort()
        for name in sorted(names):
            if _LOG.match(name) and not name.lower().startswith("summary"):
                yield root / name


def _is_final(file: epath.Path) -> bool:
    return "final_loss" in file.name or "final_loss" in file.resolve().parts[:-1]


def _facts(file: epath.Path) -> dict[str, Any]:
    """What the path says of a run; where a name stands twice, the one nearer to the file counts."""
    parts = file.resolve().parts
    sizes: dict[str, int] = {}
    for part in reversed(parts):
        for name, value in _SIZE.findall(part):
            sizes.setdefault(name.lower(), int(value))
    for name in ("rank", "length"):
        if name not in sizes:
            raise UserError(
                f"{file}: the path names no {name}; the release's runs are known by their paths, which hold "
                f"{name}_N, as in length_1000/layer_24/rank_8/{file.name}"
            )
    facts: dict[str, Any] = {"rank": sizes["rank"], "length": sizes["length"]}
    if "layer" in sizes:
        facts["layers"] = [sizes["layer"]]
    if "seed" in sizes:
        facts["seed"] = sizes["seed"]
    place, method = _method(parts)
    if method is not None:
        facts["method"] = method
    if place is not None:
        levels = [part for part in parts[place + 1 : -1] if not _SIZE.search(part) and part != "final_loss"]
        if levels and _MODEL.search(levels[0]):
            facts["model"] = levels.pop(0)
        if levels:
            facts["dataset"] = "/".join(levels)
        task = {"pb": "phonebook", "long_context": "long_context"}.get(parts[place - 1])
        if task is not None:
            facts["task"] = task
    return facts


def _method(parts: tuple[str, ...]) -> tuple[int | None, str | None]:
    """The folder that names the method, and the method as our records call it; or what the file's name says."""
    for place in range(len(parts) - 2, -1, -1):
        if (found := _METHOD.fullmatch(parts[place])) and found[1] == parts[place]:
            return place, found[1].lower().replace("_", "-")
    found = _METHOD.match(parts[-1])
    return None, found[1].lower().replace("_", "-") if found else None


def _losses(file: epath.Path, kind: str) -> dict[str, Any]:
    columns, over = _read(file)
    tokens, first, last = columns["tokens"], slice(None), slice(None)
    if kind == TRAINING:
        first, last = (columns["epoch"] == end for end in (columns["epoch"].min(), columns["epoch"].max()))
    final = float(np.average(columns["steer"][last], weights=tokens[last]))
    found = {
        "loss_initial": float(np.average(columns["ref"][first], weights=tokens[first])),
        "loss_final": final,
        "loss_from": kind,
        "loss_over": over,
    }
    return found if np.isfinite(final) else found | {"stopped": "diverged"}


def _read(file: epath.Path) -> tuple[dict[str, np.ndarray], str]:
    """Epoch, both losses (nats) and trained tokens of every row that has any, and what they were taken over."""
    try:
        reader = csv.reader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""))
        header = [name.strip() for name in next(reader, [])]
        rows, line = [], reader.line_num + 1
        for row in reader:  # over several lines, where torch printed a long tensor
            rows += [(line, row)] if row else []
            line = reader.line_num + 1
    except (UnicodeDecodeError, csv.Error) as problem:
        raise UserError(f"{file} is no CSV table ({problem}); copy it again from where it was written") from problem
    only = "_target_only" if {f"{name}_target_only" for name in (*_LOSSES, _TOKENS)} <= set(header) else ""
    names = {"epoch": "epoch", "tokens": _TOKENS + only}
    names |= {short: name + only for short, name in zip(("steer", "ref"), _LOSSES, strict=True)}
    missing = [name for name in names.values() if name not in header]
    if missing:
        raise UserError(f"{file} has no column {', '.join(missing)}, which the release's loss files have")
    columns: dict[str, list[float]] = {short: [] for short in names}
    places = {short: header.index(name) for short, name in names.items()}
    for line, row in rows:
        for short, place in places.items():
            text = row[place] if place < len(row) else ""
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            diverged = short == "steer" and not np.isfinite(value)
            if not (0 <= value < np.inf or diverged):
                raise UserError(f"{file}, line {line}: {names[short]} is {text or 'empty'}; it must be a number >= 0")
            columns[short].append(value)
    table = {short: np.array(values) for short, values in columns.items()}
    some = table["tokens"] > 0  # a batch without trained tokens has no loss
    if not some.any():
        raise UserError(f"{file} has no row with trained tokens; run that training or final-loss pass again")
    return {short: values[some] for short, values in table.items()}, "target tokens" if only else "trained tokens"
