"""A queue of cells, and N lanes on the device that are refilled as cells finish."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from memlaw_jax.models import Base, Cut, init_adapter, pad_rank, trim_rank, upper_weights
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.readout import RecallReport, prepare, verify
from memlaw_jax.results import now
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.cell import Cell, History, Listener, Outcome, Stop
from memlaw_jax.training.checkpoint import Checkpoints, Saved
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.order import Curriculum, Order
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.step import Lane, LaneSettings, Metrics, Program, new_lane, run_steps

NO_LOSS = 1e-3  # nats; below it a gradient may round to zero in an adapter that is merely done


@dataclass(kw_only=True)
class _Running:
    """What the host keeps of a lane: the cell in it and what it has logged."""

    cell: Cell
    order: Order
    started: str = field(default_factory=now)
    done: int = 0
    seconds: float = 0.0
    token_visits: int = 0
    metrics: list[Metrics] = field(default_factory=list)

    def history(self) -> History:
        """All steps so far."""
        whole: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *self.metrics)
        return History(**{name.name: getattr(whole, name.name) for name in dataclasses.fields(History)})

    def alive(self) -> bool:
        """Whether the last dispatch can still learn: an overflow ends in NaN, or in a loss that has no gradient."""
        last = self.metrics[-1]
        dead = (last.gradient_norm == 0) & (last.objective > NO_LOSS)
        return bool(np.isfinite(last.objective).all() and np.isfinite(last.loss).all() and not dead.any())

    def seems(self, stop: Stop, steps: int) -> bool:
        """Whether the last `steps` steps, an epoch, saw what `stop` waits for."""
        parts = [part.above_half if stop == "certain" else part.exact_match for part in self.metrics[-steps:]]
        seen = np.concatenate([np.zeros(0), *parts])[-steps:]
        return stop != "budget" and len(seen) == steps and bool((seen == 1.0).all())


class Pool:
    """The lanes of one data set. Shapes are fixed when it is made, so its step compiles once."""

    def __init__(
        self,
        base: Base,
        encoded: Encoded,
        cells: Sequence[Cell],
        *,
        optim: OptimConfig,
        curriculum: Curriculum | None,
        stop: Stop,
        lanes: int,
        steps_per_dispatch: int,
        placement: Placement,
    ):
        self.config, self.encoded, self.placement = base.config, encoded, placement
        self.curriculum, self.stop = curriculum, stop
        self.queue = deque(cells)
        lora = cells[0].lora
        self.objectives = tuple(dict.fromkeys(cell.objective for cell in cells))
        self.program = Program(base.config, Cut.of(base.config, lora), self.objectives, optim.compiled, lora.dropout)
        self.samples = len(encoded.tokens)
        self.batch = optim.batch(self.samples)
        self.total = optim.total_steps(self.samples, curriculum)
        self.steps = math.ceil(self.total / math.ceil(self.total / steps_per_dispatch))  # even dispatches
        rounds = math.ceil(len(cells) / lanes)
        self.count = placement.fit(math.ceil(len(cells) / rounds))
        self.rank = max(cell.lora.rank for cell in cells)
        self.data = placement.replicate(prepare(base, encoded, self.program.cut))
        self.upper = placement.replicate(upper_weights(base.config, base.params, self.program.cut))
        self.running: list[_Running | None] = [None] * self.count
        self.saved: dict[str, tuple[Any, dict[str, Any]]] = {}  # arrays and notes of cells to go on with
        self.answer_tokens = encoded.answer_mask.sum(axis=1)
        # Idle lanes hold an adapter of zeros with no steps to do; with that a lane scores as the base does.
        idle = self._new_lane(jax.tree.map(jnp.zeros_like, self._fresh(cells[0])))
        self.lanes: Lane = placement.spread(jax.tree.map(lambda leaf: jnp.stack([leaf] * self.count), idle))
        self.settings = self._settings()
        self.initial = self._verify()[0]

    def run(self, checkpoints: Checkpoints | None, listen: Listener | None) -> Iterator[Outcome]:
        """Trains the queue; the outcomes come as cells finish."""
        if checkpoints and (saved := checkpoints.load()):
            self._restore(saved)
        self._refill()
        while any(self.running):
            self._dispatch(listen)
            yield from self._harvest()
            self._refill()
            if checkpoints and checkpoints.due and any(lane and lane.done for lane in self.running):
                checkpoints.save(*self._snapshot())

    def _fresh(self, cell: Cell) -> AdapterWeights:
        return init_adapter(self.config, cell.lora, jax.random.key(cell.seed), padded_rank=self.rank)

    def _new_lane(self, weights: AdapterWeights) -> Lane:
        return new_lane(self.program, weights, self.samples, self.batch)

    def _order(self, cell: Cell) -> Order:
        return Order(seed=cell.seed, samples=self.samples, batch=self.batch, curriculum=self.curriculum)

    def _refill(self) -> None:
        for i, lane in enumerate(self.running):
            if lane is None and self.queue:
                self.running[i], begun = self._begun(self.queue.popleft())
                self.lanes = _put(self.lanes, begun, i)
        self.settings = self._settings()

    def _settings(self) -> LaneSettings:
        cells = [lane.cell if lane else None for lane in self.running]
        return self.placement.spread(
            LaneSettings(
                scale=jnp.array([cell.lora.scale if cell else 0.0 for cell in cells], jnp.float32),
                learning_rate=jnp.array([cell.learning_rate if cell else 0.0 for cell in cells], jnp.float32),
                total_steps=jnp.array([self.total if cell else 0 for cell in cells], jnp.int32),
                seed=jnp.array([cell.seed % 2**32 if cell else 0 for cell in cells], jnp.uint32),
                objective=jnp.array([self.objectives.index(cell.objective) if cell else 0 for cell in cells]),
            )
        )

    def _rows(self) -> np.ndarray:
        """`[K, N, B]` sample rows of the next dispatch, with B = 0 when every step reads everything."""
        if self.batch >= self.samples and self.curriculum is None:
            return np.zeros((self.steps, self.count, 0), np.int32)
        rows = np.full((self.steps, self.count, self.batch), -1, np.int32)
        for i, lane in enumerate(self.running):
            if lane:
                rows[:, i] = lane.order.rows(lane.done, self.steps)
        return rows

    def _dispatch(self, listen: Listener | None) -> None:
        begun, rows = time.perf_counter(), self._rows()
        self.lanes, stacked = run_steps(
            self.program, self.lanes, self.settings, self.upper, self.data, self.placement.spread(rows, axis=1)
        )
        metrics: Metrics = jax.device_get(stacked)
        active = [lane for lane in self.running if lane]
        share = (time.perf_counter() - begun) / len(active)
        for i, lane in enumerate(self.running):
            if lane is None:
                continue
            real = min(self.steps, self.total - lane.done)
            mine = jax.tree.map(lambda leaf, i=i, real=real: leaf[:real, i], metrics)
            lane.token_visits += self._visits(rows[:real, i])
            lane.metrics.append(mine)
            lane.seconds += share
            if listen:
                listen(lane.cell, lane.done, mine)
            lane.done += real

    def _visits(self, rows: np.ndarray) -> int:
        if rows.shape[-1] == 0:
            return int(self.answer_tokens.sum()) * len(rows)
        return int(self.answer_tokens[rows[rows >= 0]].sum())

    def _verify(self) -> list[RecallReport]:
        nats, right = verify(
            self.config, self.program.cut, self.upper, self.data, self.lanes.weights, self.settings.scale
        )
        mask, keys = self.encoded.answer_mask, self.encoded.keys
        return [RecallReport(nats=n, right=r, mask=mask, keys=keys) for n, r in zip(nats, right, strict=True)]

    def _harvest(self) -> Iterator[Outcome]:
        """Takes lanes out whose steps are spent, that diverged, or that recall everything where that ends them."""
        epoch = math.ceil(self.samples / self.batch)
        ended = {i for i, lane in enumerate(self.running) if lane and (lane.done >= self.total or not lane.alive())}
        hopeful = {i for i, lane in enumerate(self.running) if lane and lane.seems(self.stop, epoch)}
        if not ended | hopeful:
            return
        reports = self._verify()
        for i in sorted(ended | hopeful):
            lane, final = self.running[i], reports[i]
            assert lane is not None
            reached = final.fraction_above_half if self.stop == "certain" else final.exact_match
            recalled = i in hopeful and reached == 1.0
            if i not in ended and not recalled:
                continue
            # the last update itself can blow up, which only the verification sees
            alive = lane.alive() and bool(np.isfinite(final.nats).all())
            self.running[i] = None
            weights = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), self.lanes.weights)
            yield Outcome(
                cell=lane.cell,
                weights=trim_rank(weights, lane.cell.lora.rank),
                initial=self.initial,
                final=final,
                history=lane.history(),
                steps=lane.done,
                token_visits=lane.token_visits,
                stopped="diverged" if not alive else "recalled" if recalled else "budget",
                started=lane.started,
                seconds=lane.seconds,
            )

    def _snapshot(self) -> tuple[Any, dict[str, Any]]:
        """Everything that training goes on from: the lanes in use, and what the host keeps of them.

        A lane is saved at its own rank and with its own objective's memory alone, since the pool that goes on with it
        may have other ranks and objectives beside it.
        """
        kept = dict(self.saved)
        for i, lane in enumerate(self.running):
            if lane and lane.done:
                own = _resized(jax.tree.map(lambda leaf, i=i: leaf[i], self.lanes), trim_rank, lane.cell.lora.rank)
                own = dataclasses.replace(own, memory=own.memory[self.objectives.index(lane.cell.objective)])
                arrays = {"lane": serialization.to_state_dict(own), "history": dataclasses.asdict(lane.history())}
                note = {key: getattr(lane, key) for key in ("started", "done", "seconds", "token_visits")}
                kept[lane.cell.name] = arrays, note
        return {name: arrays for name, (arrays, _) in kept.items()}, {name: note for name, (_, note) in kept.items()}

    def _restore(self, saved: Saved) -> None:
        """Keeps the saved lanes of cells in the queue until a lane is free for each."""
        names = {cell.name for cell in self.queue}
        self.saved = {name: (saved.arrays[name], note) for name, note in saved.notes.items() if name in names}

    def _begun(self, cell: Cell) -> tuple[_Running, Lane]:
        """A cell at its first step, or where it was when it was saved."""
        fresh, order = self._new_lane(self._fresh(cell)), self._order(cell)
        if cell.name not in self.saved:
            return _Running(cell=cell, order=order), fresh
        arrays, note = self.saved.pop(cell.name)
        place = self.objectives.index(cell.objective)
        own = serialization.from_state_dict(dataclasses.replace(fresh, memory=fresh.memory[place]), arrays["lane"])
        memory = (*fresh.memory[:place], own.memory, *fresh.memory[place + 1 :])
        lane = _resized(dataclasses.replace(own, memory=memory), pad_rank, self.rank)
        return _Running(cell=cell, order=order, metrics=[Metrics(**arrays["history"])], **note), lane


def _resized(lane: Lane, change: Callable[[AdapterWeights, int], AdapterWeights], rank: int) -> Lane:
    """A lane whose adapter and moments are padded or trimmed to a rank."""
    first, second = change(lane.moments.first, rank), change(lane.moments.second, rank)
    moments = dataclasses.replace(lane.moments, first=first, second=second)
    return dataclasses.replace(lane, weights=change(lane.weights, rank), moments=moments)


@functools.partial(jax.jit, donate_argnums=0)
def _put(lanes: Lane, fresh: Lane, index: int) -> Lane:
    """The lanes with a fresh one at `index`."""
    return jax.tree.map(lambda stack, leaf: stack.at[index].set(leaf), lanes, fresh)
