"""What a law is fitted to and by which loss: the rows, the cell of each, and a solver for many resamples of the cells.

Least squares over runs is least squares over cell means weighted by their runs, so there a row is a cell. Huber's loss
and the censored likelihood look at single runs, so there a row is a run; it is still cells that are resampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from memlaw_jax.analysis.cells import SATURATED, Cells, gather, ordered
from memlaw_jax.analysis.law import censored, robust, varpro
from memlaw_jax.analysis.law.varpro import PARAMETERS, Solutions
from memlaw_jax.errors import UserError

Kind = Literal["squared", "huber", "tobit"]
FEWEST_CELLS = PARAMETERS + 1


@dataclass(frozen=True, kw_only=True)
class Problem:
    """K rows in the coordinates of a reference cell: u = ln(r/r_ref), v = ln(ℓ/ℓ_ref), y = ΔL in nats.

    Attributes:
      weight: runs of a row (0: the row is not used).
      cell: which cell a row belongs to, from 0; `cells` are resampled.
      saturated: rows whose y is only a lower bound, for `tobit`.
      warm: the full data's solution, (α, β), or (α, β, c/σ, b/σ, 1/σ) for `tobit`; resamples start from it.
    """

    kind: Kind
    u: Float[np.ndarray, " K"]
    v: Float[np.ndarray, " K"]
    y: Float[np.ndarray, " K"]
    weight: Float[np.ndarray, " K"]
    cell: Int[np.ndarray, " K"]
    cells: int
    saturated: Bool[np.ndarray, " K"] | None = None
    warm: tuple[float, ...] | None = None

    def solve(self, times: Float[np.ndarray, "M cells"] | None = None) -> Solutions:
        """The global solution, or with `times` how often each cell was drawn, one for each resample."""
        drawn = np.ones((1, self.cells)) if times is None else times
        weights = drawn[:, self.cell] * self.weight
        warm = None if times is None else self.warm
        exponents = None if warm is None else (warm[0], warm[1])
        if self.kind == "squared":
            return varpro.solve(self.u, self.v, self.y, weights, warm=exponents)
        if self.kind == "huber":
            return robust.solve(self.u, self.v, self.y, weights, warm=exponents)[0]
        return censored.solve(self.runs, weights, warm=None if warm is None else np.array(warm))[0]

    @property
    def runs(self) -> censored.Runs:
        """The rows as the censored likelihood takes them."""
        nothing = np.zeros(len(self.y), bool)
        return censored.Runs(
            u=self.u, v=self.v, y=self.y, saturated=nothing if self.saturated is None else self.saturated
        )

    def identifies(self, times: Int[np.ndarray, "M cells"]) -> Bool[np.ndarray, " M"]:
        """Which resamples hold as many distinct cells as parameters, over at least two ranks and two lengths."""
        rows = self.weight > 0
        if self.saturated is not None:
            rows = rows & ~self.saturated
        one = np.unique(self.cell[rows], return_index=True)
        drawn = times[:, one[0]] > 0
        enough: Bool[np.ndarray, " M"] = drawn.sum(axis=1) >= PARAMETERS
        for values in (self.u[rows][one[1]], self.v[rows][one[1]]):
            member = values[:, None] == np.unique(values)[None, :]
            enough = enough & (((drawn.astype(int) @ member.astype(int)) > 0).sum(axis=1) >= 2)
        place = np.stack([np.ones(len(one[0])), self.u[rows][one[1]], self.v[rows][one[1]]], axis=1)
        return enough & (np.linalg.matrix_rank(drawn[:, :, None] * place) == 3)


def of_cells(cells: Cells, rank_ref: float, length_ref: float) -> Problem:
    """Least squares over these cells."""
    return Problem(
        kind="squared",
        u=np.log(cells.rank / rank_ref),
        v=np.log(cells.length / length_ref),
        y=cells.delta,
        weight=cells.runs.astype(float),
        cell=np.arange(len(cells)),
        cells=len(cells),
    )


def of_runs(frame: pd.DataFrame, kind: Kind, rank_ref: float, length_ref: float) -> Problem:
    """Huber's loss or the censored likelihood over these runs, whatever their order."""
    runs = ordered(frame)
    delta, saturated = runs["delta"].to_numpy(), None
    if kind == "tobit":
        saturated = runs["loss_final"].to_numpy() <= SATURATED
        delta = np.where(saturated, runs["loss_initial"] - SATURATED, delta)
    cell = runs.groupby(["rank", "length"], sort=True).ngroup().to_numpy()
    return Problem(
        kind=kind,
        u=np.log(runs["rank"].to_numpy() / rank_ref),
        v=np.log(runs["length"].to_numpy() / length_ref),
        y=delta,
        weight=np.ones(len(runs)),
        cell=cell,
        cells=int(cell.max()) + 1,
        saturated=saturated,
    )


def reference(cells: Cells) -> tuple[float, float]:
    """The geometric mean rank and length of cells that a law can be fitted to.

    Raises:
      UserError: fewer than 5 cells, or one rank or length only.
    """
    if len(cells) < FEWEST_CELLS:
        left = "1 unsaturated cell is" if len(cells) == 1 else f"{len(cells)} unsaturated cells are"
        raise UserError(
            f"only {left} left and a law needs at least {FEWEST_CELLS}; "
            "add smaller ranks or longer lengths, whose final loss stays above ln 2 = 0.693"
        )
    for name, values in (("rank", cells.rank), ("length", cells.length)):
        if len(np.unique(values)) < 2:
            raise UserError(f"every unsaturated cell has {name} {values[0]}; a law needs at least two {name}s")
    logs = [np.log(x) - np.log(x).mean() for x in (cells.rank, cells.length)]
    if np.linalg.matrix_rank(np.stack(logs)) < 2:
        raise UserError(
            f"the {len(cells)} unsaturated cells lie on one line of ln(rank) and ln(length), so α and β cannot be told "
            "apart; add cells beside that line, such as another length for one of the ranks"
        )
    return tuple(float(np.exp(np.log(x).mean())) for x in (cells.rank, cells.length))  # type: ignore[return-value]


def unsaturated(frame: pd.DataFrame) -> Cells:
    """Cells with a run that did not saturate: what the reference cell of a censored fit is the middle of."""
    cells = gather(frame)
    open_cells = frame.loc[frame["loss_final"] > SATURATED, ["rank", "length"]]
    keys = set(map(tuple, open_cells.to_numpy().tolist()))
    return cells.take(np.array([key in keys for key in cells.key]))
