"""Cells that a grid need not run, because it already shows that they would leave nothing to learn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, reason, refusals, write_whole
from memlaw_jax.training.grid import Grid, PlannedCell
from memlaw_jax.training.step import LN2

SKIPPED = "skipped.json"


class Saturation:
    """What the finished cells of a grid say about the others (`skip: saturated`).

    A cell is saturated where its final loss is ln 2 or less, the paper's bound, above which the law is fitted. If all
    seeds of one rank and length are, so would be every higher rank at that length or a shorter one, with the same
    method and learning rate.
    """

    def __init__(self, grid: Grid, records: Iterable[Mapping[str, Any]]):
        self.grid = grid
        self.skipped: dict[str, dict[str, Any]] = {}
        self._losses: dict[str, float] = {}
        self._seeds: dict[tuple[Any, ...], list[str]] = {}
        for planned in grid.cells:
            self._seeds.setdefault((*self._kind(planned), *self._place(planned)), []).append(planned.id)
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes a finished cell into account."""
        loss = record["loss_final"]
        self._losses[record["cell_id"]] = math.inf if loss is None else loss

    def shows(self, planned: PlannedCell) -> bool:
        """Whether the cell need not be run; it is then noted in `skipped`."""
        kind, (rank, length) = self._kind(planned), self._place(planned)
        for (*other, lower, longer), ids in self._seeds.items():
            if tuple(other) != kind or lower > rank or longer < length or planned.id in ids:
                continue
            if all(self._losses.get(name, math.inf) <= LN2 for name in ids):
                self.skipped[planned.id] = {
                    "cell_id": planned.id,
                    "method": planned.method.name,
                    "rank": rank,
                    "length": length,
                    "seed": planned.cell.seed,
                    "learning_rate": planned.cell.learning_rate,
                    "shown_by": ids,
                }
                return True
        return False

    def save(self, directory: epath.PathLike) -> None:
        """Writes what was skipped, and what showed it; such cells have no record, so that another sweep runs them.

        Raises:
          UserError: the folder cannot be written to.
        """
        place = as_path(directory) / SKIPPED
        try:
            if self.skipped:
                write_whole(place, (json.dumps(list(self.skipped.values()), indent=2) + "\n").encode())
            else:
                with refusals(place):
                    place.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {place}: {reason(error)}. All finished cells are kept.") from error

    def _kind(self, planned: PlannedCell) -> tuple[Any, ...]:
        return planned.method.name, planned.cell.learning_rate

    def _place(self, planned: PlannedCell) -> tuple[int, int]:
        return planned.cell.lora.rank, self.grid.encoded[planned.length].answer_tokens
