"""A grid of cells (rank × length × method × seed × learning rate) on one task, run or resumed into a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import jax
import pydantic
from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, LoraConfig
from memlaw_jax.objectives import OBJECTIVES
from memlaw_jax.results import SCHEMA, ResultStore, cell_id, commit, versions
from memlaw_jax.settings import Count, PathText, Seed, settings
from memlaw_jax.tasks import Encoded, Task, make_task, pad
from memlaw_jax.training.lanes import LANES, STEPS_PER_DISPATCH, Cell, Outcome, train_cells
from memlaw_jax.training.logging import Watcher
from memlaw_jax.training.optim import OptimConfig, Positive
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.protocol import CUSTOM, PROTOCOLS, Name

if TYPE_CHECKING:
    import pandas as pd


@settings
class SweepConfig:
    """The YAML of `memlaw sweep`.

    Attributes:
      model: `embedded`, a Hugging Face directory or a hub id.
      dtype: of the frozen weights and activations; losses are float32, adapters what `optim.state` says.
      task: `kind` and the task's own settings; from Python also a `Task`.
      lengths: answer tokens ℓ; null is everything the task has.
      ranks: LoRA ranks, in place of `lora.rank`.
      methods: objectives by name.
      learning_rates: a grid axis in place of `optim.learning_rate`.
      protocol: `paper` or `standard`: fixes and fills in settings of `lora`, `optim` and `seeds` (`training.protocol`).
      lanes: the most adapters trained at once, rounded up to a multiple of the devices.
      steps_per_dispatch: optimiser steps between two looks of the host.
      out: the results folder.
    """

    label: ClassVar[str] = "config"

    task: Any
    ranks: Annotated[tuple[Count, ...], Field(min_length=1)]
    protocol: Name | None = None
    model: str = "embedded"
    dtype: str = "float32"
    lengths: Annotated[tuple[Count | None, ...], Field(min_length=1)] = (None,)
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("sft",)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig(steps=400)
    lanes: Count = LANES
    steps_per_dispatch: Count = STEPS_PER_DISPATCH
    out: PathText | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _by_protocol(cls, given: Any) -> Any:
        """Fills in what a protocol says."""
        values = getattr(given, "kwargs", None) or {}
        protocol = values.get("protocol")
        if isinstance(protocol, str) and protocol in PROTOCOLS:
            return PROTOCOLS[protocol].fill(values)
        return given

    def __post_init__(self) -> None:
        self.made_task()
        if self.protocol is not None:
            PROTOCOLS[self.protocol].check(self.protocol, self.lora, self.optim)
        unknown = [method for method in self.methods if method not in OBJECTIVES]
        if unknown:
            raise UserError(f"method {unknown[0]!r} is unknown; allowed are {', '.join(OBJECTIVES)}.")

    def made_task(self) -> Task:
        """The task itself."""
        return self.task if isinstance(self.task, Task) else make_task(self.task)


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of the grid with its id and everything its record says before it is run."""

    id: str
    cell: Cell
    method: str
    length: int | None


@dataclass(frozen=True)
class SweepResults:
    """The finished cells of a sweep."""

    directory: os.PathLike[str]
    records: list[dict[str, Any]]

    def frame(self) -> pd.DataFrame:
        """One row a cell, with the record's fields as columns."""
        import pandas as pd

        return pd.DataFrame(self.records)


def run_sweep(
    base: Base, config: SweepConfig, out: str | os.PathLike[str], watch: Watcher | None = None
) -> SweepResults:
    """Runs the cells of a grid that `out` does not hold yet; each is saved the moment it finishes.

    Raises:
      UserError: a cell that cannot be run (said before any is), or a folder that belongs to another sweep.
    """
    sweep = _Sweep(base, config)
    with ResultStore(out, sweep.identity) as store:
        todo = [cell for cell in sweep.cells if cell.id not in store.finished]
        if watch:
            watch.begin(total=len(sweep.cells), done=len(sweep.cells) - len(todo), work=sweep.work(todo))
        try:
            for planned, outcome in sweep.run(todo, watch):
                store.append(sweep.record(planned, outcome), _tokens(outcome))
                if watch:
                    watch.finished(planned.cell, outcome)
        finally:
            if watch:
                watch.end()
        ids = {cell.id for cell in sweep.cells}
        return SweepResults(store.directory, [record for record in store.records if record["cell_id"] in ids])


def sweep(
    base: Base,
    task: Task | dict[str, Any],
    *,
    ranks: Sequence[int],
    out: str | os.PathLike[str],
    lengths: Sequence[int | None] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    protocol: Name | None = None,
    lora: LoraConfig | None = None,
    optim: OptimConfig | None = None,
    **more: Any,
) -> SweepResults:
    """`run_sweep` from Python: the axes of the grid as arguments; `more` are further fields of `SweepConfig`."""
    axes = {"ranks": ranks, "lengths": lengths, "seeds": seeds, "methods": methods}
    given: dict[str, Any] = {name: tuple(values) for name, values in axes.items() if values is not None}
    given |= {name: part for name, part in (("lora", lora), ("optim", optim)) if part is not None}
    config = SweepConfig(task=task, model=base.name, dtype=base.dtype, protocol=protocol, **given, **more)
    return run_sweep(base, config, out)


class _Sweep:
    """The grid of one config on one base."""

    def __init__(self, base: Base, config: SweepConfig):
        self.base, self.config = base, config
        self.task = config.made_task()
        self.placement = Placement()
        self.dataset = self.task.fingerprint(base.tokenizer)
        self.encoded = {length: self._encode(length) for length in config.lengths}
        self.identity = {
            "model": base.fingerprint,
            "dtype": base.dtype,
            "task": self.task.name,
            "dataset": self.dataset,
            "lora": self._lora_identity(),
            "optim": self._optim_identity(),
        }
        # Two lengths can ask for the same records, and an axis can name a value twice: each cell is run once.
        self.cells = list({cell.id: cell for cell in self._plan()}.values())

    def work(self, cells: list[PlannedCell]) -> int:
        """Optimiser steps times tokens read a step: what the progress bar counts."""
        return sum(self._cell_work(cell) for cell in cells)

    def run(self, todo: list[PlannedCell], watch: Watcher | None) -> Iterator[tuple[PlannedCell, Outcome]]:
        """Trains the cells, those of one data set and method together, ranks side by side."""
        groups: dict[tuple[int | None, str], list[PlannedCell]] = {}
        for cell in todo:
            groups.setdefault((cell.length, cell.method), []).append(cell)
        for (length, method), group in groups.items():
            by_name = {cell.cell.name: cell for cell in group}
            encoded = self.encoded[length]

            def listen(cell: Cell, step: int, metrics: Any, encoded: Encoded = encoded) -> None:
                if watch:
                    watch.stepped(cell, step, metrics, self._step_work(encoded) * len(metrics.loss))

            outcomes = train_cells(
                self.base,
                encoded,
                [cell.cell for cell in group],
                objective=OBJECTIVES[method](),
                optim=self.config.optim,
                lanes=self.config.lanes,
                steps_per_dispatch=self.config.steps_per_dispatch,
                placement=self.placement,
                listen=listen,
            )
            for outcome in outcomes:
                yield by_name[outcome.cell.name], outcome

    def record(self, planned: PlannedCell, outcome: Outcome) -> dict[str, Any]:
        """The cell's line in `results.jsonl`."""
        cell, final = planned.cell, outcome.final
        return {
            "schema": SCHEMA,
            "cell_id": planned.id,
            "implementation": "memlaw_jax",
            "protocol": self.config.protocol or CUSTOM,
            "model": self.base.name,
            "task": self.task.name,
            "dataset": self.dataset,
            "method": planned.method,
            "rank": cell.lora.rank,
            "alpha": cell.lora.alpha,
            "init": cell.lora.init,
            "dropout": cell.lora.dropout,
            "targets": list(cell.lora.targets),
            "layers": list(cell.lora.adapted_layers(self.base.config)),
            "effective_parameters": cell.lora.effective_parameters(self.base.config),
            "length": int(final.mask.sum()),
            "samples": len(final.keys),
            "vocab_size": self.base.config.vocab_size,
            "seed": cell.seed,
            "learning_rate": cell.learning_rate,
            "schedule": self.config.optim.schedule,
            "batch_size": self.config.optim.batch(len(final.keys)),
            "optimizer": self.config.optim.describe(),
            "steps": outcome.steps,
            "token_visits": outcome.token_visits,
            "stopped": outcome.stopped,
            "loss_initial": outcome.initial.loss,
            "loss_final": final.loss,
            "token_accuracy": final.token_accuracy,
            "exact_match": final.exact_match,
            "p_min": final.p_min,
            "fraction_above_half": final.fraction_above_half,
            "first_failure": final.first_failure,
            "seconds": round(outcome.seconds, 3),
            "precision": {"frozen": self.base.dtype, "adapter": self.config.optim.state},
            "device": jax.devices()[0].device_kind,
            "mesh": self.placement.describe(),
            "versions": versions(),
            "started": outcome.started,
            "git": commit(),
        }

    def _plan(self) -> Iterator[PlannedCell]:
        config = self.config
        for length, encoded in self.encoded.items():
            for method in config.methods:
                for seed in config.seeds:
                    for rate in config.learning_rates or (config.optim.learning_rate,):
                        for rank in sorted(config.ranks):
                            lora = dataclasses.replace(config.lora, rank=rank)
                            lora.check(self.base.config)
                            yield self._planned(lora, seed, rate, method, length, encoded)

    def _planned(
        self, lora: LoraConfig, seed: int, rate: float, method: str, length: int | None, encoded: Encoded
    ) -> PlannedCell:
        axes = {"rank": lora.rank, "length": encoded.answer_tokens, "method": method, "seed": seed, "rate": rate}
        name = cell_id(self.identity | axes)
        described = f"{method}-r{lora.rank}-l{encoded.answer_tokens}-s{seed}-lr{rate:g}-{name}"
        cell = Cell(lora=lora, seed=seed, learning_rate=rate, name=described)
        return PlannedCell(id=name, cell=cell, method=method, length=length)

    def _encode(self, length: int | None) -> Encoded:
        limit = self.base.config.max_positions
        samples = self.task.samples(self.base.tokenizer, length, max_length=limit)
        return pad(samples, pad_id=self.base.pad_id)

    def _lora_identity(self) -> dict[str, Any]:
        lora = self.config.lora
        layers = list(lora.adapted_layers(self.base.config))
        return {
            "targets": list(lora.targets),
            "layers": layers,
            "alpha": lora.alpha,
            "init": lora.init,
            "dropout": lora.dropout,
        }

    def _optim_identity(self) -> dict[str, Any]:
        values = dataclasses.asdict(self.config.optim)
        return {key: value for key, value in values.items() if key != "learning_rate"}

    def _step_work(self, encoded: Encoded) -> int:
        samples, width = encoded.tokens.shape
        return self.config.optim.batch(samples) * width

    def _cell_work(self, cell: PlannedCell) -> int:
        encoded = self.encoded[cell.length]
        return self.config.optim.total_steps(len(encoded.tokens)) * self._step_work(encoded)


def _tokens(outcome: Outcome) -> dict[str, Any]:
    """The per-token arrays of a cell, counted tokens only, sample after sample."""
    mask = outcome.final.mask
    return {
        "nats_initial": outcome.initial.nats[mask],
        "nats": outcome.final.nats[mask],
        "right": outcome.final.right[mask],
        "sample": mask.nonzero()[0].astype("int32"),
        "loss_history": outcome.history.loss,
    }
