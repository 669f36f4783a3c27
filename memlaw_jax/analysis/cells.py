"""From runs to cells: a cell is one (rank, length) with all its seeds, the unit that is fitted, dropped and resampled.

Seeds of one cell share its data and so are not independent evidence about the law; treating them as such would make
every interval too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

SATURATED = float(np.log(2.0))  # nats; below it a token's probability is above one half (PAPER.md, section 1)
# Runs that differ in one of these are not seeds of one cell.
_SAME_IN_A_CELL = ("model", "task", "dataset", "targets", "layers", "learning_rate", "steps", "protocol", "alpha")


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Means over the runs of each cell, sorted by rank, then length. Losses and ΔL in nats per answer token."""

    rank: Int[np.ndarray, " K"]
    length: Int[np.ndarray, " K"]
    runs: Int[np.ndarray, " K"]
    initial: Float[np.ndarray, " K"]
    final: Float[np.ndarray, " K"]
    delta: Float[np.ndarray, " K"]
    low: Float[np.ndarray, " K"]  # least and greatest ΔL among the cell's runs
    high: Float[np.ndarray, " K"]
    scatter: Float[np.ndarray, " K"]  # sum of squares of ΔL about the cell's mean

    def __len__(self) -> int:
        return len(self.rank)

    def take(self, mask: Bool[np.ndarray, " K"]) -> Cells:
        return Cells(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    @property
    def key(self) -> list[tuple[int, int]]:
        return [(int(r), int(n)) for r, n in zip(self.rank, self.length, strict=True)]

    def seed_sd(self) -> float | None:
        """Pooled standard deviation of ΔL between seeds of one cell, nats; None when no cell has two."""
        spare = int((self.runs - 1).sum())
        return float(np.sqrt(self.scatter.sum() / spare)) if spare else None


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The losses and ΔL (`delta`) of runs by rank, length and value.

    Sums of floats depend on their order, so the order is fixed by the values themselves.
    """
    losses = frame[["rank", "length", "loss_initial", "loss_final"]].assign(
        delta=frame["loss_initial"] - frame["loss_final"]
    )
    return losses.sort_values(["rank", "length", "delta", "loss_initial"], kind="stable")


def gather(frame: pd.DataFrame) -> Cells:
    """Cells of a results frame. The result does not depend on the order of the rows, to the last bit."""
    losses = ordered(frame)
    groups = losses.groupby(["rank", "length"], sort=True)
    mean = groups.mean()
    delta = groups["delta"]
    index = mean.index.to_frame()
    centred = losses["delta"] - delta.transform("mean")
    scatter = (centred**2).groupby([losses["rank"], losses["length"]], sort=True).sum()
    return Cells(
        rank=index["rank"].to_numpy(),
        length=index["length"].to_numpy(),
        runs=groups.size().to_numpy(),
        initial=mean["loss_initial"].to_numpy(),
        final=mean["loss_final"].to_numpy(),
        delta=mean["delta"].to_numpy(),
        low=delta.min().to_numpy(),
        high=delta.max().to_numpy(),
        scatter=scatter.to_numpy(),
    )


def mixtures(frame: pd.DataFrame) -> tuple[str, ...]:
    """A sentence for each column in which runs of one cell differ: they are averaged as if they were seeds."""
    notes = []
    for column in (name for name in _SAME_IN_A_CELL if name in frame.columns):
        kinds = frame[column].map(str).groupby([frame["rank"], frame["length"]]).nunique()
        if (kinds > 1).any():
            notes.append(
                f"{int((kinds > 1).sum())} cells mix runs that differ in {column}; they were averaged as if they were "
                "seeds, so fit them apart if they should not be."
            )
    return tuple(notes)
