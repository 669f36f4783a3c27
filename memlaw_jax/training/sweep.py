"""A grid of cells (rank × length × method × seed × learning rate) on one task, run or resumed into a folder."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, LoraConfig
from memlaw_jax.results import ResultStore
from memlaw_jax.tasks import Task
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.distributed import TOLD, agree, check_shared, each, is_first
from memlaw_jax.training.frozen import Frozen
from memlaw_jax.training.grid import Grid
from memlaw_jax.training.logging import Watcher
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.preemption import Preemption
from memlaw_jax.training.protocol import Name
from memlaw_jax.training.saturation import Saturation
from memlaw_jax.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS, ADAPTERS = "checkpoints", "adapters"


@dataclass(frozen=True)
class SweepResults:
    """The finished cells of a grid, and those that were left out because others showed what they would say."""

    directory: epath.Path
    records: list[dict[str, Any]]
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """One row a cell, with the record's fields as columns."""
        import pandas as pd

        return pd.DataFrame(self.records)


def run_sweep(
    base: Base,
    config: SweepConfig,
    out: epath.PathLike,
    watch: Watcher | None = None,
    frozen: Callable[[], Frozen] | None = None,
) -> SweepResults:
    """Runs the cells of a grid that `out` does not hold yet; each is saved the moment it finishes.

    Lanes in training are saved too, every 20 seconds and when SIGTERM comes, and go on from there when the same sweep
    is run again. The base's weights are in the host's memory meanwhile (`Base.spilled`). Of several processes, which
    all run this, the first writes.

    Args:
      frozen: gives the features and weights of other sweeps, for this one too.

    Raises:
      UserError: a cell that cannot be run (said before any is), or a folder that belongs to another grid.
      Preempted: SIGTERM came; the lanes in training are saved.
    """
    grid = Grid(base, config)
    with (
        _opened(out, grid.identity) as store,
        closing(Checkpoints(store.directory / CHECKPOINTS)) as checkpoints,
        Preemption() as preemption,
    ):
        _check_alike(grid, store, config)
        saturation = Saturation(grid, store.records)
        skip = saturation.shows if config.skip == "saturated" else None
        left = [cell for cell in grid.cells if cell.id not in store.finished]
        todo = [cell for cell in left if not (skip and skip(cell))]
        _warn_of_what_is_missing(store, config, {cell.id for cell in grid.cells})
        if watch:
            watch.begin(total=len(grid.cells), done=len(grid.cells) - len(todo), work=grid.work(todo))
        try:
            outcomes = grid.run(
                todo, checkpoints=checkpoints, watch=watch, frozen=frozen, skip=skip, preemption=preemption
            )
            for planned, outcome in outcomes:
                if config.adapters and store.writer:
                    outcome.adapter(base).save(store.directory / ADAPTERS / planned.id)
                record, tokens = grid.saved(planned, outcome)
                store.append(record, tokens)
                saturation.add(record)
                if watch:
                    watch.finished(planned.cell, outcome)
            checkpoints.remove()
            if store.writer:
                saturation.save(store.directory)
        finally:
            if watch:
                watch.end()
        ids = {cell.id for cell in grid.cells}
        records = [record for record in store.records if record["cell_id"] in ids]
        return SweepResults(store.directory, records, list(saturation.skipped.values()))


def _opened(out: epath.PathLike, identity: dict[str, Any]) -> ResultStore:
    """The results folder, which process 0 writes to and all others read, or what keeps process 0 from it for all."""
    check_shared(out)
    store, why = None, None
    if is_first():
        try:
            store = ResultStore(out, identity)
        except UserError as error:
            why = str(error)[:TOLD]
    if (why := agree(why)) is not None:
        raise UserError(why)
    return store or ResultStore(out, identity, writer=False)


def _check_alike(grid: Grid, store: ResultStore, config: SweepConfig) -> None:
    """Refuses processes that would not do the same: each would wait for the others for ever."""
    settings = config.lanes, config.steps_per_dispatch, config.stop, config.skip, config.remat, config.parallelism
    plan = repr((sorted(store.finished), [cell.id for cell in grid.cells], settings, config.decode))
    mine = hashlib.sha256(plan.encode()).hexdigest()
    if not all(each(agree(mine) == mine)):
        raise UserError(
            "the processes were started with different configs, or see different records in the folder; start all of "
            "them with the same command."
        )


def _warn_of_what_is_missing(store: ResultStore, config: SweepConfig, cells: set[str]) -> None:
    """A finished cell is never run again, so it stays without what only a later config asks for."""
    done = [record for record in store.records if record["cell_id"] in cells]
    decoded = ["token_accuracy_free" in record or record["stopped"] == "diverged" for record in done]
    kept = [not config.adapters or (store.directory / ADAPTERS / record["cell_id"]).exists() for record in done]
    for wanted, there, what in ((config.decode, decoded, "decoded"), (config.adapters, kept, "kept as adapters")):
        if wanted and not all(there):
            warnings.warn(
                f"{there.count(False)} cells in {store.directory} were finished earlier and not {what}; run them into "
                "another folder for that.",
                stacklevel=3,
            )


def sweep(
    base: Base,
    task: Task | dict[str, Any],
    *,
    ranks: Sequence[int],
    out: epath.PathLike,
    lengths: Sequence[int | None] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[Any] | None = None,
    protocol: Name | None = None,
    lora: LoraConfig | None = None,
    optim: OptimConfig | None = None,
    **more: Any,
) -> SweepResults:
    """`run_sweep` from Python: the axes of the grid as arguments; `more` are further fields of `SweepConfig`."""
    axes = {"ranks": ranks, "lengths": lengths, "seeds": seeds, "methods": methods}
    given: dict[str, Any] = {name: tuple(values) for name, values in axes.items() if values is not None}
    given |= {name: part for name, part in (("lora", lora), ("optim", optim)) if part is not None}
    given |= {"model": base.name, "dtype": base.dtype, "attention": base.config.attention}
    config = SweepConfig(task=task, protocol=protocol, **(given | more))
    return run_sweep(base, config, out)
