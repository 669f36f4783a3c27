"""The cells of a sweep: which there are, how they are grouped and run, and what is kept of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from memlaw_jax.errors import UserError
from memlaw_jax.mesh import MeshConfig
from memlaw_jax.models import Base, LoraConfig
from memlaw_jax.readout import recall
from memlaw_jax.results import SCHEMA, cell_id, commit, versions
from memlaw_jax.tasks import Encoded, HasHeldout, HasSource, Sample, pad
from memlaw_jax.training.cell import Cell, Outcome
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.frozen import Frozen
from memlaw_jax.training.lanes import train_cells
from memlaw_jax.training.logging import Watcher
from memlaw_jax.training.memory import told_of_memory
from memlaw_jax.training.method import Method
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.preemption import Preemption
from memlaw_jax.training.protocol import CUSTOM
from memlaw_jax.training.sweep_config import SweepConfig


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One cell of the grid with its id and everything its record says before it is run."""

    id: str
    cell: Cell
    method: Method
    length: int | None


class Grid:
    """The grid of one config on one base."""

    def __init__(self, base: Base, config: SweepConfig):
        self.base, self.config = base, config
        self.task = config.made_task()
        self.placement = _placement(base, config)
        self.dataset = self.task.fingerprint(base.tokenizer)
        self.encoded = {length: self._encode(length) for length in config.lengths}
        self.heldout = self._heldout()
        self.source_bits = {length: self._source_bits(encoded) for length, encoded in self.encoded.items()}
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
        if config.skip == "saturated":  # low ranks and long texts show what need not be run
            self.cells.sort(key=lambda planned: (planned.cell.lora.rank, -self.encoded[planned.length].answer_tokens))

    def work(self, cells: list[PlannedCell]) -> int:
        """Optimiser steps times tokens read a step: what the progress bar counts."""
        return sum(self._cell_work(cell) for cell in cells)

    def run(
        self,
        todo: list[PlannedCell],
        *,
        checkpoints: Checkpoints | None = None,
        watch: Watcher | None = None,
        frozen: Callable[[], Frozen] | None = None,
        skip: Callable[[PlannedCell], bool] | None = None,
        preemption: Preemption | None = None,
    ) -> Iterator[tuple[PlannedCell, Outcome]]:
        """Trains the cells: ranks, methods, seeds and lengths side by side in one queue, where shapes allow it."""
        if not todo:
            return
        by_name = {planned.cell.name: planned for planned in todo}
        sets = list(self.encoded.values())

        def listen(cell: Cell, step: int, metrics: Any) -> None:
            if watch:
                watch.stepped(cell, step, metrics, self._step_work(sets[cell.data]) * len(metrics.loss))

        with told_of_memory(self.config.lanes):
            made = frozen() if frozen else Frozen(self.base, todo[0].cell.lora, placement=self.placement)
            made.learn(sets)  # all, so that cells that are run later have the same features
        outcomes = train_cells(
            self.base,
            sets,
            [planned.cell for planned in todo],
            optim=self.config.optim,
            stop=self.config.stop,
            lanes=self.config.lanes,
            steps_per_dispatch=self.config.steps_per_dispatch,
            remat=self.config.remat,
            frozen=made,
            checkpoints=checkpoints,
            listen=listen,
            skip=None if skip is None else lambda cell: skip(by_name[cell.name]),
            preemption=preemption,
        )
        with self.base.spilled():
            for outcome in outcomes:
                yield by_name[outcome.cell.name], outcome
            del made, outcomes  # before the base's weights come back

    def saved(self, planned: PlannedCell, outcome: Outcome) -> tuple[dict[str, Any], dict[str, Any]]:
        """The cell's line in `results.jsonl` and its per-token arrays."""
        adapter = outcome.adapter(self.base)
        record, tokens = self._record(planned, outcome), self._tokens(planned, outcome)
        alive = outcome.stopped != "diverged"
        base = self.base
        if alive and (self.config.decode or self.heldout):
            base = dataclasses.replace(base, params=base.near())  # borrowed once
        if self.config.decode and alive:
            from memlaw_jax.readout import free_run

            free = free_run(base, adapter, self.encoded[planned.length])
            record["token_accuracy_free"] = free.token_accuracy
            tokens["free_right"] = free.right[outcome.final.mask]
        if self.heldout and alive:
            report = recall(base, adapter, self.heldout)
            record["heldout"] = {
                "samples": len(report.keys),
                "length": int(report.mask.sum()),
                "loss": report.loss,
                "token_accuracy": report.token_accuracy,
                "exact_match": report.exact_match,
            }
        return record, tokens

    def _record(self, planned: PlannedCell, outcome: Outcome) -> dict[str, Any]:
        cell, final = planned.cell, outcome.final
        return {
            "schema": SCHEMA,
            "cell_id": planned.id,
            "implementation": "memlaw_jax",
            "protocol": self.config.protocol or CUSTOM,
            "model": self.base.name,
            "task": self.task.name,
            "dataset": self.dataset,
            "method": planned.method.name,
            "objective": planned.method.describe(),
            "rank": cell.lora.rank,
            "alpha": cell.lora.alpha,
            "init": cell.lora.init,
            "dropout": cell.lora.dropout,
            "targets": list(cell.lora.targets),
            "layers": list(cell.lora.adapted_layers(self.base.config)),
            "effective_parameters": cell.lora.effective_parameters(self.base.config),
            "length": int(final.mask.sum()),
            "samples": len(final.keys),
            "source_bits": self.source_bits[planned.length],
            "vocab_size": self.base.config.vocab_size,
            "seed": cell.seed,
            "learning_rate": cell.learning_rate,
            "schedule": self.config.optim.schedule,
            "batch_size": self.config.optim.batch(len(final.keys)),
            "optimizer": self.config.optim.describe(),
            "steps": outcome.steps,
            "token_visits": outcome.token_visits,
            "stop": self.config.stop,
            "skip": self.config.skip,
            "attention": self.base.config.attention,
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
            "parallelism": self.placement.parallelism,
            "versions": versions(),
            "started": outcome.started,
            "git": commit(),
        }

    def _tokens(self, planned: PlannedCell, outcome: Outcome) -> dict[str, Any]:
        """Of counted tokens only, sample after sample."""
        mask = outcome.final.mask
        labels = self.encoded[planned.length].labels[mask]
        text = {int(token): self.base.tokenizer.decode([int(token)]) for token in np.unique(labels)}
        return {
            "nats_initial": outcome.initial.nats[mask],
            "nats": outcome.final.nats[mask],
            "right": outcome.final.right[mask],
            "sample": mask.nonzero()[0].astype(np.int32),
            "labels": labels,
            "pieces": np.array([text[int(token)] for token in labels]),
            "loss_history": outcome.history.loss,
        }

    def _plan(self) -> Iterator[PlannedCell]:
        config = self.config
        for length, encoded in self.encoded.items():
            for method in config.made_methods():
                for seed in config.seeds:
                    for rate in config.learning_rates or (config.optim.learning_rate,):
                        for rank in sorted(config.ranks):
                            lora = dataclasses.replace(config.lora, rank=rank)
                            lora.check(self.base.config)
                            yield self._planned(lora, seed, rate, method, length, encoded)

    def _planned(
        self, lora: LoraConfig, seed: int, rate: float, method: Method, length: int | None, encoded: Encoded
    ) -> PlannedCell:
        axes = {
            "rank": lora.rank, "length": encoded.answer_tokens, "method": method.identity, "seed": seed, "rate": rate,
        }  # fmt: skip
        if self.config.stop != "budget":
            axes["stop"] = self.config.stop
        name = cell_id(self.identity | axes)
        described = f"{method.name}-r{lora.rank}-l{encoded.answer_tokens}-s{seed}-lr{rate:g}-{name}"
        cell = Cell(
            lora=lora,
            seed=seed,
            learning_rate=rate,
            objective=method.objective,
            curriculum=method.curriculum,
            data=list(self.encoded).index(length),
            name=described,
        )
        return PlannedCell(id=name, cell=cell, method=method, length=length)

    def _encode(self, length: int | None) -> Encoded:
        limit = self.base.config.max_positions
        samples = self.task.samples(self.base.tokenizer, length, max_length=limit)
        return pad(samples, pad_id=self.base.pad_id)

    def _heldout(self) -> list[Sample]:
        if not isinstance(self.task, HasHeldout):
            return []
        return self.task.heldout_samples(self.base.tokenizer, max_length=self.base.config.max_positions)

    def _source_bits(self, encoded: Encoded) -> float | None:
        if not isinstance(self.task, HasSource):
            return None
        return self.task.source_bits(self.base.tokenizer, encoded.answer_tokens, len(encoded.keys))

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
        samples = len(encoded.tokens)
        return self.config.optim.total_steps(samples, cell.method.curriculum) * self._step_work(encoded)


def _placement(base: Base, config: SweepConfig) -> Placement:
    """The config's mesh, or that of a base which was spread over one of its own."""
    if base.mesh is None:
        return config.placement()
    if config.mesh != MeshConfig() and config.mesh.build() != base.mesh:
        raise UserError(f"the base was loaded on a mesh of {dict(base.mesh.shape)}, the sweep asks for another; load "
                        "it with mesh=config.mesh.build().")  # fmt: skip
    return Placement(base.mesh, config.parallelism)
