"""What is predicted of a whole grid, as numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from memlaw_jax.check.compiled import RESERVE, Step
from memlaw_jax.check.hardware import GIB
from memlaw_jax.models.decoder import Remat


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """Cells of one length that share a step.

    Attributes:
      length: answer tokens ℓ of the data set.
      steps: optimiser steps of a cell.
      samples: of a step of a cell.
      tokens: of the longest sample.
      step_seconds: of a step of all lanes, those of other lengths included.
      remat: what the backward pass computes again.
      flops: that the results of all these cells need, over all steps: at each cell's own rank, with nothing computed
        again and no lane or bucket filled up; an epoch's last batch counts as a whole one.
    """

    length: int
    cells: int
    steps: int
    samples: int
    tokens: int
    step_seconds: float
    remat: Remat
    flops: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a chip while the largest pool is trained, reckoned; `usable` is what a program may take there."""

    frozen_weights: int
    adapters: int
    features: int
    temporaries: int
    usable: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.frozen_weights + self.adapters + self.features + self.temporaries

    @property
    def fits(self) -> bool:
        """Whether there is room, with the reserve of `memlaw check`."""
        return self.total <= self.usable - int(RESERVE * self.usable)

    @classmethod
    def of(cls, step: Step) -> Memory:
        """Of a pool's step."""
        return cls(
            frozen_weights=step.weights, adapters=step.adapters, features=step.features, temporaries=step.temporaries,
            usable=step.usable,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GridPrediction:
    """One sweep's whole grid on one machine.

    Attributes:
      lanes: adapters at once, as configured.
      training: seconds of all steps.
      compiling: seconds to compile each pool's step.
      usd_an_hour: list price of the machine; None where there is none.
    """

    model: str
    task: str
    hardware: str
    chips: int
    lanes: int
    rows: tuple[GridRow, ...]
    training: float
    compiling: float
    usd_an_hour: float | None
    memory: Memory

    @property
    def cells(self) -> int:
        """All of the grid."""
        return sum(row.cells for row in self.rows)

    @property
    def flops(self) -> float:
        """What the results of all cells need."""
        return sum(row.flops for row in self.rows)

    @property
    def seconds(self) -> float:
        """Training and compiling, without loading; all budgets spent and no cell skipped."""
        return self.training + self.compiling

    @property
    def usd(self) -> float | None:
        """At list price."""
        return None if self.usd_an_hour is None else self.usd_an_hour * self.seconds / 3600

    def as_json(self) -> dict[str, Any]:
        """Every number, in bytes, FLOPs and seconds."""
        totals = {name: getattr(self, name) for name in ("cells", "flops", "seconds", "usd")}
        told = asdict(self) | totals
        told["memory"] |= {"total": self.memory.total, "fits": self.memory.fits}
        return told

    def words(self) -> str:
        """A table by length and the totals, for a person."""
        head = ("tokens ℓ", "cells", "steps a cell", "samples × tokens", "s a step", "remat", "PFLOP")
        rows = [
            (
                f"{row.length:,}", str(row.cells), f"{row.steps:,}", f"{row.samples} × {row.tokens:,}",
                f"{row.step_seconds:.3g}", row.remat, f"{row.flops / 1e15:.3g}",
            )
            for row in self.rows
        ]  # fmt: skip
        memory = self.memory
        return "\n".join(
            [
                f"{self.model}, {self.task}, on {self.hardware}, {self.lanes} lanes; predicted, not measured.",
                *_aligned([head, *rows]),
                f"{self.cells} cells, {self.flops / 1e15:.3g} PFLOP, {_time(self.seconds)}"
                + ("." if self.usd is None else f", about ${self.usd:.0f} at list price."),
                f"Memory a chip {memory.total / GIB:.3g} GiB of {memory.usable / GIB:.3g}: frozen weights "
                f"{memory.frozen_weights / GIB:.3g}, adapters {memory.adapters / GIB:.3g}, features "
                f"{memory.features / GIB:.3g}, temporaries {memory.temporaries / GIB:.3g}"
                + ("." if memory.fits else "; does not fit."),
            ]
        )


@dataclass(frozen=True, kw_only=True)
class GridTotals:
    """Several sweeps, one after the other."""

    grids: tuple[GridPrediction, ...]

    @property
    def cells(self) -> int:
        """Of all grids."""
        return sum(grid.cells for grid in self.grids)

    @property
    def flops(self) -> float:
        """What all results need."""
        return sum(grid.flops for grid in self.grids)

    @property
    def seconds(self) -> float:
        """Of all grids."""
        return sum(grid.seconds for grid in self.grids)

    @property
    def usd(self) -> float | None:
        """At list price; None where a machine has none."""
        found = [grid.usd for grid in self.grids]
        return None if None in found else sum(usd for usd in found if usd is not None)

    @property
    def memory(self) -> Memory:
        """Of the grid that needs the most."""
        return max((grid.memory for grid in self.grids), key=lambda memory: memory.total)

    def as_json(self) -> dict[str, Any]:
        """The totals, then each grid."""
        totals = {name: getattr(self, name) for name in ("cells", "flops", "seconds", "usd")}
        return totals | {"grids": [grid.as_json() for grid in self.grids]}

    def words(self) -> str:
        """Each grid and, of several, the totals."""
        told = [grid.words() for grid in self.grids]
        if len(self.grids) > 1:
            price = "" if self.usd is None else f", about ${self.usd:.0f} at list price"
            told.append(
                f"All {len(self.grids)} sweeps: {self.cells} cells, {self.flops / 1e15:.3g} PFLOP, "
                f"{_time(self.seconds)}{price}, at most {self.memory.total / GIB:.3g} GiB a chip; predicted, not "
                "measured."
            )
        return "\n\n".join(told)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(["", *map(str.rjust, row, widths)]) for row in rows]


def _time(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
