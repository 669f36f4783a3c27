"""Reading the training curves that a sweep leaves as TensorBoard events, one run a cell, as one table."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator

import pandas as pd
from etils import epath

from memlaw_jax.analysis.frame import read_frame
from memlaw_jax.errors import UserError
from memlaw_jax.paths import NOTHING_THERE, folder_of, reading

COLUMNS = {
    "train/nats_per_answer_token": "loss",
    "train/token_accuracy": "token_accuracy",
    "train/share_above_half": "share_above_half",
    "train/exact_match": "exact_match",
    "train/active_tokens": "active_tokens",
}
OF_THE_RECORD = ("cell_id", "task", "method", "rank", "length", "seed")
_HEAD, _TAIL = 12, 4  # bytes of a TFRecord before its data (their length and its checksum) and after them (a checksum)

_Folder = str | os.PathLike[str]


def read_curves(source: _Folder | Iterable[_Folder]) -> pd.DataFrame:
    """The training curves of every finished run of a results folder, or of several: a row a run and step.

    Columns: `cell_id`, `task`, `method`, `rank`, `length` (answer tokens) and `seed` of the run's record; `step` (of
    the optimiser, from 0; what is measured is measured before it); and, measured on that step's batch, `loss` (nats per
    answer token), `token_accuracy` (teacher-forced), `share_above_half`, `exact_match` and `active_tokens` (share of
    the trained tokens with a weight above zero), NaN where a value was no number. A run that was stopped and resumed
    has one curve, of which the later points count; a torn tail is left out, and so are runs without a curve. Rows are
    in the order of the records, then of the steps.

    Raises `UserError`, naming the folder, where there are no records (see `read_frame`) or not one curve of theirs.
    """
    parts = [source] if isinstance(source, str | os.PathLike) else list(source)
    records = read_frame([read_frame(part).assign(folder=os.fspath(folder_of(part))) for part in parts])
    records = records.reindex(columns=[*OF_THE_RECORD, "folder"])
    curves = []
    for folder, mine in records.groupby("folder", sort=False):
        places = _places(epath.Path(str(folder)))
        found = [_curve(places[name]).assign(cell_id=name) for name in mine["cell_id"] if name in places]
        if not sum(map(len, found)):
            raise UserError(
                f"{folder} has no training curves of its runs in tensorboard/; give the whole folder that `memlaw "
                "sweep` wrote"
            )
        curves += found
    return records.drop(columns="folder").merge(pd.concat(curves), on="cell_id")


def _places(folder: epath.Path) -> dict[str, epath.Path]:
    """The folder of each cell's curve by its cell_id, with which the folder's name ends."""
    try:
        with reading(folder):
            return {place.name.rpartition("-")[2]: place for place in (folder / "tensorboard").iterdir()}
    except NOTHING_THERE:
        return {}


def _curve(place: epath.Path) -> pd.DataFrame:
    """Steps and columns of one cell from its event files, one for each time that the sweep was started."""
    points: list[tuple[float, int, str, float]] = []
    with reading(place):
        for file in place.iterdir():
            points += _points(file.read_bytes())
    table = pd.DataFrame(points, columns=["time", "step", "column", "value"]).sort_values("time", kind="stable")
    table = table.drop_duplicates(["step", "column"], keep="last")
    wide = table.pivot(index="step", columns="column", values="value")
    return wide.reindex(columns=list(COLUMNS.values())).rename_axis(columns=None).reset_index()


def _points(data: bytes) -> Iterator[tuple[float, int, str, float]]:
    """Time, step, column and value of the points of an event file, up to where it is torn."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event  # takes a second to import

    at = 0
    while at + _HEAD <= len(data):
        start = at + _HEAD
        end = start + struct.unpack_from("<Q", data, at)[0]
        if end + _TAIL > len(data):
            return
        try:
            event = Event.FromString(data[start:end])
        except DecodeError:
            return
        for value in event.summary.value:
            if value.tag in COLUMNS:
                yield event.wall_time, event.step, COLUMNS[value.tag], value.simple_value
        at = end + _TAIL
