"""The multi-rank trainer: cells in, outcomes out, many adapters at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.cell import Cell, Listener, Outcome, Stop
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.order import Curriculum
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.pool import Pool

STEPS_PER_DISPATCH = 50
LANES = 16


def train_cells(
    base: Base,
    encoded: Encoded,
    cells: Sequence[Cell],
    *,
    optim: OptimConfig,
    curriculum: Curriculum | None = None,
    stop: Stop = "budget",
    lanes: int = LANES,
    steps_per_dispatch: int = STEPS_PER_DISPATCH,
    placement: Placement | None = None,
    checkpoints: Checkpoints | None = None,
    listen: Listener | None = None,
) -> Iterator[Outcome]:
    """Trains all cells on one data set, up to `lanes` at a time, and yields each as it finishes.

    Every cell's numbers are those it would have alone: nothing crosses from lane to lane, ranks are padded with zeros,
    and the order of its samples follows from its own seed.

    Args:
      encoded: the data set; its fixed shape is what the step is compiled for.
      stop: `recalled` ends a cell, at the end of a dispatch, once every sample is recalled word for word; `certain`
        once every answer token has p > ½ as well, where no rounding breaks it.
      checkpoints: where lanes in training are saved now and then, and found again by the names of their cells.
      listen: called after each dispatch with a cell, its first step in that dispatch, and `[K]` metrics.

    Raises:
      UserError: cells that differ in targets, layers or dropout, or do not fit the model or the device's memory.
    """
    if not cells:
        return
    if len({(cell.lora.targets, cell.lora.layers, cell.lora.dropout) for cell in cells}) > 1:
        raise UserError("cells of other lora targets, layers or dropout cannot be trained in one batch; split them.")
    if checkpoints and len({cell.name for cell in cells}) < len(cells):
        raise UserError("cells that are saved in checkpoints are found again by their names; give each its own.")
    for cell in cells:
        cell.lora.check(base.config)
    try:
        pool = Pool(
            base,
            encoded,
            cells,
            optim=optim,
            curriculum=curriculum,
            stop=stop,
            lanes=lanes,
            steps_per_dispatch=steps_per_dispatch,
            placement=placement or Placement(),
        )
        yield from pool.run(checkpoints, listen)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the device has no memory for lanes {lanes}; use a smaller number.") from error
