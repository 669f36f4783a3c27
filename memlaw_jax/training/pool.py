"""A queue of cells, and N lanes on the device that are refilled as cells finish."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from memlaw_jax.errors import Preempted
from memlaw_jax.models import init_adapter, pad_rank, trim_rank
from memlaw_jax.models.decoder import Remat
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.readout import DataSets, RecallReport, verify
from memlaw_jax.sharding import to_host
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.buckets import Bucket, dispatch_steps, lane_count
from memlaw_jax.training.by_pmap import run_steps_by_pmap
from memlaw_jax.training.cell import Cell, Listener, Outcome, Stop
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.frozen import Frozen
from memlaw_jax.training.memory import free_memory, needed_remat
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.order import Order
from memlaw_jax.training.preemption import Preemption
from memlaw_jax.training.running import Running
from memlaw_jax.training.slots import put, resized, take
from memlaw_jax.training.step import Lane, LaneSettings, Metrics, Program, new_lane, run_steps

SavedLanes = dict[str, tuple[Any, dict[str, Any]]]  # arrays and notes, by the cell's name


RESUMED = "started", "done", "seconds", "token_visits"  # what of `Running` is saved as it is


class Pool:
    """The lanes of one bucket of data sets. Shapes are fixed when it is made, so its step compiles once."""

    def __init__(
        self,
        frozen: Frozen,
        bucket: Bucket,
        sets: Sequence[Encoded],
        cells: Sequence[Cell],
        *,
        optim: OptimConfig,
        stop: Stop,
        lanes: int,
        steps_per_dispatch: int,
        remat: Remat | None,
        skip: Callable[[Cell], bool] | None,
        saved: SavedLanes,
    ):
        self.frozen, self.config, self.placement = frozen, frozen.base.config, frozen.placement
        self.optim, self.stop, self.skip = optim, stop, skip
        self.bucket, self.sets = bucket, sets
        self.queue = deque(cells)
        self.saved = saved  # of all pools, since each checkpoint takes the place of the last
        self.objectives = tuple(dict.fromkeys(cell.objective for cell in cells))
        self.rank = max(cell.lora.rank for cell in cells)
        self.steps = dispatch_steps(max(map(self._total, cells)), steps_per_dispatch, stop)
        self.count = lane_count(len(cells), lanes, self.placement)
        self.running: list[Running | None] = [None] * self.count
        self.data = self._data(sorted({cell.data for cell in cells}))
        lora = cells[0].lora
        if remat is None:
            samples = self.bucket.samples // self.placement.mesh.shape["data"]
            tokens = self.count // self.placement.ways * samples * self.bucket.width
            remat = needed_remat(self.config, frozen.cut, frozen.base.dtype, tokens, free_memory())
        self.program = Program(self.config, frozen.cut, self.objectives, optim.compiled, lora.dropout, remat)
        # Idle lanes hold an adapter of zeros with no steps to do; with that a lane scores as the base does.
        idle = to_host(self._new_lane(jax.tree.map(jnp.zeros_like, self._fresh(cells[0]))))
        self.lanes: Lane = self.placement.spread(
            jax.tree.map(lambda leaf: np.broadcast_to(leaf, (self.count, *leaf.shape)), idle)
        )
        self.initial = self._initial()

    def run(
        self, checkpoints: Checkpoints | None, listen: Listener | None, preemption: Preemption | None
    ) -> Iterator[Outcome]:
        """Trains the queue; the outcomes come as cells finish.

        Raises:
          Preempted: told to stop, with the lanes in training saved where there are checkpoints.
        """
        self._refill()
        while any(self.running):
            if preemption and preemption.reached():
                lanes, notes = self._snapshot() if checkpoints else ({}, {})
                if checkpoints and lanes:
                    checkpoints.save(lanes, notes)
                raise Preempted(len(lanes))
            self._dispatch(listen)
            yield from self._harvest()
            self._refill()
            if checkpoints and checkpoints.due and any(lane and lane.done for lane in self.running):
                checkpoints.save(*self._snapshot())

    def _total(self, cell: Cell) -> int:
        return self.optim.total_steps(len(self.sets[cell.data].tokens), cell.curriculum)

    def _data(self, used: list[int]) -> DataSets:
        """The data sets of these cells on the device, in the bucket's shape; `self.place` says where each is in it."""
        sets = [self.sets[index] for index in used]
        self.place = {index: place for place, index in enumerate(used)}
        # what is picked from is all there is of the largest set
        self.samples = self.bucket.samples if self.bucket.whole else max(len(encoded.tokens) for encoded in sets)
        shape = self.samples, self.bucket.width, self.bucket.slots
        (source,) = {self.frozen.source(encoded) for encoded in sets}
        features = self.frozen.features(source, *shape[:2])
        return self.placement.replicate(DataSets.of(features, [encoded.fitted(*shape) for encoded in sets]))

    def _fresh(self, cell: Cell) -> AdapterWeights:
        return init_adapter(self.config, cell.lora, jax.random.key(cell.seed), padded_rank=self.rank)

    def _new_lane(self, weights: AdapterWeights) -> Lane:
        return new_lane(self.program, weights, self.samples, self.bucket.samples)

    def _order(self, cell: Cell) -> Order:
        samples = len(self.sets[cell.data].tokens)
        return Order(seed=cell.seed, samples=samples, batch=self.optim.batch(samples), curriculum=cell.curriculum)

    def _refill(self) -> None:
        for i, lane in enumerate(self.running):
            if lane is None and (cell := self._next()) is not None:
                self.running[i], begun = self._begun(cell)
                self.lanes = put(self.lanes, to_host(begun), i)
        self.settings = self._settings()

    def _next(self) -> Cell | None:
        while self.queue:
            cell = self.queue.popleft()
            if self.skip is None or not self.skip(cell):
                return cell
        return None

    def _settings(self) -> LaneSettings:
        cells = [lane.cell if lane else None for lane in self.running]

        def leaf(value: Callable[[Cell], float], dtype: Any) -> Any:
            return np.array([value(cell) if cell else 0 for cell in cells], dtype)

        return self.placement.spread(
            LaneSettings(
                scale=leaf(lambda cell: cell.lora.scale, np.float32),
                learning_rate=leaf(lambda cell: cell.learning_rate, np.float32),
                total_steps=leaf(self._total, np.int32),
                seed=leaf(lambda cell: cell.seed % 2**32, np.uint32),
                objective=leaf(lambda cell: self.objectives.index(cell.objective), np.int32),
                data=leaf(lambda cell: self.place[cell.data], np.int32),
            )
        )

    def _rows(self) -> np.ndarray:
        """`[K, N, B]` sample rows of the next dispatch, with B = 0 when every step reads everything."""
        if self.bucket.whole:
            return np.zeros((self.steps, self.count, 0), np.int32)
        rows = np.full((self.steps, self.count, self.bucket.samples), -1, np.int32)
        for i, lane in enumerate(self.running):
            if lane:
                rows[:, i, : lane.order.batch] = lane.order.rows(lane.done, self.steps)
        return rows

    def _dispatch(self, listen: Listener | None) -> None:
        begun, rows = time.perf_counter(), self._rows()
        placed = self.placement.spread(rows, axis=1)
        run = run_steps if self.placement.parallelism == "jit" else run_steps_by_pmap
        with jax.transfer_guard("disallow"):
            self.lanes, stacked = run(
                self.program, self.lanes, self.settings, self.frozen.upper, self.data, placed, mesh=self.placement.mesh
            )
        metrics: Metrics = to_host(stacked)
        active = [lane for lane in self.running if lane]
        share = (time.perf_counter() - begun) / len(active)
        for i, lane in enumerate(self.running):
            if lane is None:
                continue
            real = min(self.steps, self._total(lane.cell) - lane.done)
            mine = jax.tree.map(lambda leaf, i=i, real=real: leaf[:real, i], metrics)
            lane.token_visits += self._visits(lane.cell, rows[:real, i])
            lane.metrics.append(mine)
            lane.seconds += share
            if listen:
                listen(lane.cell, lane.done, mine)
            lane.done += real

    def _visits(self, cell: Cell, rows: np.ndarray) -> int:
        encoded = self.sets[cell.data]
        if rows.shape[-1] == 0:
            return encoded.answer_tokens * len(rows)
        return int(encoded.answer_mask.sum(axis=1)[rows[rows >= 0]].sum())

    def _initial(self) -> dict[int, RecallReport]:
        """What the base recalls of each data set; every lane holds an adapter of zeros yet."""
        reports: dict[int, RecallReport] = {}
        used = list(self.place)
        for start in range(0, len(used), self.count):
            some = dict(enumerate(used[start : start + self.count]))
            chosen = np.zeros(self.count, np.int32)
            chosen[: len(some)] = [self.place[data] for data in some.values()]
            found = self._verify(some, dataclasses.replace(self._settings(), data=self.placement.spread(chosen)))
            reports |= {data: found[lane] for lane, data in some.items()}
        return reports

    def _verify(self, lanes: Mapping[int, int], settings: LaneSettings) -> dict[int, RecallReport]:
        """What some lanes recall now, each of one of the data sets."""
        samples = max(len(self.sets[data].tokens) for data in lanes.values())
        frozen, scale = self.frozen, settings.scale
        nats, right = verify(
            self.config,
            frozen.cut,
            frozen.upper,
            self.data,
            self.lanes.weights,
            scale,
            settings.data,
            samples,
            self.placement.mesh,
        )
        reports = {}
        for lane, data in lanes.items():
            encoded = self.sets[data]
            rows, slots = encoded.labels.shape
            reports[lane] = RecallReport(
                nats=nats[lane, :rows, :slots],
                right=right[lane, :rows, :slots],
                mask=encoded.answer_mask,
                keys=encoded.keys,
            )
        return reports

    def _harvest(self) -> Iterator[Outcome]:
        """Takes lanes out whose steps are spent, that diverged, or that recall everything where that ends them."""
        ended, hopeful = set(), set()
        for i, lane in enumerate(self.running):
            if lane is None:
                continue
            if lane.done >= self._total(lane.cell) or not lane.alive():
                ended.add(i)
            if lane.seems(self.stop, math.ceil(lane.order.samples / lane.order.batch)):
                hopeful.add(i)
        if not ended | hopeful:
            return
        asked = {i: lane.cell.data for i, lane in enumerate(self.running) if lane and i in ended | hopeful}
        reports = self._verify(asked, self.settings)
        for i in sorted(asked):
            lane, final = self.running[i], reports[i]
            assert lane is not None
            reached = final.fraction_above_half if self.stop == "certain" else final.exact_match
            recalled = i in hopeful and reached == 1.0
            if i not in ended and not recalled:
                continue
            # the last update itself can blow up, which only the verification sees
            alive = lane.alive() and bool(np.isfinite(final.nats).all())
            self.running[i] = None
            weights = take(self.lanes.weights, i)
            yield Outcome(
                cell=lane.cell,
                weights=trim_rank(weights, lane.cell.lora.rank),
                initial=self.initial[lane.cell.data],
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

        A lane is saved at its own rank and with its own samples of its own objective's memory alone, since the pool
        that goes on with it may have other ranks, objectives and data sets beside it.
        """
        kept = dict(self.saved)
        for i, lane in enumerate(self.running):
            if lane and lane.done:
                own = resized(take(self.lanes, i), trim_rank, lane.cell.lora.rank)
                own = dataclasses.replace(own, memory=self._own_memory(lane.cell, own.memory))
                arrays = {"lane": serialization.to_state_dict(own), "history": dataclasses.asdict(lane.history())}
                note = {key: getattr(lane, key) for key in RESUMED} | _described(lane.cell)
                kept[lane.cell.name] = arrays, note
        return {name: arrays for name, (arrays, _) in kept.items()}, {name: note for name, (_, note) in kept.items()}

    def _begun(self, cell: Cell) -> tuple[Running, Lane]:
        """A cell at its first step, or where it was when it was saved."""
        fresh, order = self._new_lane(self._fresh(cell)), self._order(cell)
        if cell.name not in self.saved:
            return Running(cell=cell, order=order), fresh
        arrays, note = self.saved.pop(cell.name)
        place = self.objectives.index(cell.objective)
        blank = dataclasses.replace(fresh, memory=self._own_memory(cell, fresh.memory))
        own = serialization.from_state_dict(blank, arrays["lane"])
        wider = jax.tree.map(lambda all, part: all.at[: len(part)].set(part), fresh.memory[place], own.memory)
        memory = (*fresh.memory[:place], wider, *fresh.memory[place + 1 :])
        lane = resized(dataclasses.replace(own, memory=memory), pad_rank, self.rank)
        progress = {key: note[key] for key in RESUMED}
        return Running(cell=cell, order=order, metrics=[Metrics(**arrays["history"])], **progress), lane

    def _own_memory(self, cell: Cell, memory: tuple[Any, ...]) -> Any:
        """The memory of the cell's objective, of its own data set's samples or rows of a batch."""
        order = self._order(cell)
        rows = order.samples if cell.objective.state_of == "sample" else order.batch
        return jax.tree.map(lambda leaf: leaf[:rows], memory[self.objectives.index(cell.objective)])


def _described(cell: Cell) -> dict[str, Any]:
    """Whose adapter a saved lane is, for people who look into a checkpoint."""
    lora = cell.lora
    layers = None if lora.layers is None else list(lora.layers)
    return {"rank": lora.rank, "alpha": lora.alpha, "targets": list(lora.targets), "layers": layers, "seed": cell.seed}
