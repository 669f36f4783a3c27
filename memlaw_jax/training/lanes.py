"""The multi-rank trainer: cells in, outcomes out, many adapters at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from memlaw_jax.errors import Preempted, UserError
from memlaw_jax.models import Base
from memlaw_jax.models.decoder import Remat
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.buckets import grouped
from memlaw_jax.training.cell import Cell, Listener, Outcome, Stop
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.frozen import Frozen
from memlaw_jax.training.memory import told_of_memory
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.pool import Pool, SavedLanes
from memlaw_jax.training.preemption import Preemption

STEPS_PER_DISPATCH = 50
LANES = 16


def train_cells(
    base: Base,
    data: Encoded | Sequence[Encoded],
    cells: Sequence[Cell],
    *,
    optim: OptimConfig,
    stop: Stop = "budget",
    lanes: int = LANES,
    steps_per_dispatch: int = STEPS_PER_DISPATCH,
    remat: Remat | None = None,
    frozen: Frozen | None = None,
    checkpoints: Checkpoints | None = None,
    listen: Listener | None = None,
    skip: Callable[[Cell], bool] | None = None,
    preemption: Preemption | None = None,
) -> Iterator[Outcome]:
    """Trains all cells, up to `lanes` at a time, and yields each as it finishes.

    Every cell's numbers are those it would have alone: nothing crosses from lane to lane, ranks and data sets are
    padded with zeros, and the order of a cell's samples follows from its own seed. Cells whose data sets have nearly
    the same shape, and are prefixes of one another, share lanes and a compiled step; other shapes come after.

    Args:
      data: the data set, or several that `Cell.data` tells apart.
      stop: `recalled` ends a cell, at the end of a dispatch, once every sample is recalled word for word; `certain`
        once every answer token has p > ½ as well, where no rounding breaks it.
      remat: what the backward pass computes again (`models.decoder.Remat`); None is what memory asks for.
      frozen: features and weights of other calls, for these too.
      checkpoints: where lanes in training are saved now and then, and found again by the names of their cells.
      listen: called after each dispatch with a cell, its first step in that dispatch, and `[K]` metrics.
      skip: asked before a cell takes a free lane; cells for which it is true are left out.
      preemption: asked before each dispatch; when it says so, lanes are saved and training ends.

    Raises:
      Preempted: it did.
      UserError: cells that differ in targets, layers or dropout, or do not fit the model or the device's memory.
    """
    if not cells:
        return
    if len({(cell.lora.targets, cell.lora.layers, cell.lora.dropout) for cell in cells}) > 1:
        raise UserError("cells of other lora targets, layers or dropout cannot be trained in one batch; split them.")
    if checkpoints and len({cell.name for cell in cells}) < len(cells):
        raise UserError("cells that are saved in checkpoints are found again by their names; give each its own.")
    if frozen and not frozen.fits(base, cells[0].lora):
        raise UserError("these frozen features are of another base or another cut; make them for these cells.")
    for cell in cells:
        cell.lora.check(base.config)
    sets = [data] if isinstance(data, Encoded) else list(data)
    with told_of_memory(lanes):
        frozen = frozen or Frozen(base, cells[0].lora)
        frozen.learn([sets[index] for index in sorted({cell.data for cell in cells})])
        saved = _saved(checkpoints, {cell.name for cell in cells})
        for bucket, group in grouped(sets, cells, optim, frozen.placement, frozen.source):
            wanted = [cell for cell in group if not (skip and skip(cell))]
            if not wanted:
                continue
            if preemption and preemption.reached():  # asked before another step is compiled, too
                raise Preempted(len(saved))  # which are in the last checkpoint
            pool = Pool(
                frozen,
                bucket,
                sets,
                wanted,
                optim=optim,
                stop=stop,
                lanes=lanes,
                steps_per_dispatch=steps_per_dispatch,
                remat=remat,
                skip=skip,
                saved=saved,
            )
            yield from pool.run(checkpoints, listen, preemption)
            del pool  # its lanes leave the device before the next ones come


def _saved(checkpoints: Checkpoints | None, names: set[str]) -> SavedLanes:
    """Lanes of these cells as they were saved, to be taken out when a lane is free for each."""
    found = checkpoints.load() if checkpoints else None
    return {name: (found.arrays[name], note) for name, note in found.notes.items() if name in names} if found else {}
