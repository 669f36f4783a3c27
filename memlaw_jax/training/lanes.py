"""The multi-rank trainer: a queue of cells, and N lanes on the device that are refilled as cells finish."""

from __future__ import annotations

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
from jaxtyping import Float

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, Cut, LoraConfig, init_adapter, trim_rank, upper_weights
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.objectives import Objective
from memlaw_jax.readout import RecallReport, prepare, verify
from memlaw_jax.results import now
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.order import Order
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.step import Lane, LaneSettings, Metrics, Program, new_lane, run_steps

STEPS_PER_DISPATCH = 50
LANES = 16
NO_LOSS = 1e-3  # nats; below it a gradient may round to zero in an adapter that is merely done


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One adapter to train. Cells trained together share data, targets, layers, dropout, objective and optimiser
    constants."""

    lora: LoraConfig
    seed: int = 0
    learning_rate: float
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class History:
    """One value a step, before its update: mean nats per answer token, share of arg-maxes right, gradient norm."""

    loss: Float[np.ndarray, " steps"]
    accuracy: Float[np.ndarray, " steps"]
    gradient_norm: Float[np.ndarray, " steps"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished cell. `stopped` is `budget`, or `diverged` (a loss that is no finite number or has no gradient).

    `seconds` is the cell's share of the dispatches it took part in, `token_visits` the answer tokens it trained on.
    """

    cell: Cell
    weights: AdapterWeights = field(repr=False)
    initial: RecallReport
    final: RecallReport
    history: History = field(repr=False)
    steps: int
    token_visits: int
    stopped: str
    started: str
    seconds: float


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


Listener = Callable[[Cell, int, Metrics], None]


def train_cells(
    base: Base,
    encoded: Encoded,
    cells: Sequence[Cell],
    *,
    objective: Objective,
    optim: OptimConfig,
    lanes: int = LANES,
    steps_per_dispatch: int = STEPS_PER_DISPATCH,
    placement: Placement | None = None,
    listen: Listener | None = None,
) -> Iterator[Outcome]:
    """Trains all cells on one data set, up to `lanes` at a time, and yields each as it finishes.

    Every cell's numbers are those it would have alone: nothing crosses from lane to lane, ranks are padded with zeros,
    and the order of its samples follows from its own seed.

    Args:
      encoded: the data set; its fixed shape is what the step is compiled for.
      listen: called after each dispatch with a cell, its first step in that dispatch, and `[K]` metrics.

    Raises:
      UserError: cells that differ in targets, layers or dropout, or do not fit the model or the device's memory.
    """
    if not cells:
        return
    if len({(cell.lora.targets, cell.lora.layers, cell.lora.dropout) for cell in cells}) > 1:
        raise UserError("cells of other lora targets, layers or dropout cannot be trained in one batch; split them.")
    for cell in cells:
        cell.lora.check(base.config)
    try:
        pool = _Pool(base, encoded, cells, objective, optim, lanes, steps_per_dispatch, placement or Placement())
        yield from pool.run(listen)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the device has no memory for lanes {lanes}; use a smaller number.") from error


class _Pool:
    """The lanes of one data set. Shapes are fixed when it is made, so its step compiles once."""

    def __init__(
        self,
        base: Base,
        encoded: Encoded,
        cells: Sequence[Cell],
        objective: Objective,
        optim: OptimConfig,
        lanes: int,
        steps_per_dispatch: int,
        placement: Placement,
    ):
        self.config, self.encoded, self.optim, self.placement = base.config, encoded, optim, placement
        self.queue = deque(cells)
        lora = cells[0].lora
        self.program = Program(base.config, Cut.of(base.config, lora), objective, optim.compiled, lora.dropout)
        self.samples = len(encoded.tokens)
        self.total = optim.total_steps(self.samples)
        self.steps = math.ceil(self.total / math.ceil(self.total / steps_per_dispatch))  # even dispatches
        rounds = math.ceil(len(cells) / lanes)
        self.count = placement.fit(math.ceil(len(cells) / rounds))
        self.rank = max(cell.lora.rank for cell in cells)
        self.data = placement.replicate(prepare(base, encoded, self.program.cut))
        self.upper = placement.replicate(upper_weights(base.config, base.params, self.program.cut))
        self.running: list[_Running | None] = [None] * self.count
        self.answer_tokens = encoded.answer_mask.sum(axis=1)
        self.initial: RecallReport | None = None
        # Idle lanes hold an adapter of zeros with no steps to do.
        idle = jax.tree.map(jnp.zeros_like, new_lane(self.program, self._fresh(cells[0])))
        self.lanes: Lane = placement.spread(jax.tree.map(lambda leaf: jnp.stack([leaf] * self.count), idle))

    def run(self, listen: Listener | None) -> Iterator[Outcome]:
        self._refill()
        while any(self.running):
            self._dispatch(listen)
            finished = [
                i for i, lane in enumerate(self.running) if lane and (lane.done >= self.total or not self._alive(lane))
            ]
            if finished:
                yield from self._harvest(finished)
                self._refill()

    def _fresh(self, cell: Cell) -> AdapterWeights:
        return init_adapter(self.config, cell.lora, jax.random.key(cell.seed), padded_rank=self.rank)

    def _refill(self) -> None:
        for i, lane in enumerate(self.running):
            if lane is None and self.queue:
                cell = self.queue.popleft()
                order = Order(seed=cell.seed, samples=self.samples, batch=self.optim.batch(self.samples))
                self.running[i] = _Running(cell=cell, order=order)
                self.lanes = _put(self.lanes, new_lane(self.program, self._fresh(cell)), i)
        self.settings = self._settings()
        if self.initial is None:  # B is zero in every lane now, so lane 0 scores as the base does
            self.initial = self._verify()[0]

    def _settings(self) -> LaneSettings:
        cells = [lane.cell if lane else None for lane in self.running]
        return self.placement.spread(
            LaneSettings(
                scale=jnp.array([cell.lora.scale if cell else 0.0 for cell in cells], jnp.float32),
                learning_rate=jnp.array([cell.learning_rate if cell else 0.0 for cell in cells], jnp.float32),
                total_steps=jnp.array([self.total if cell else 0 for cell in cells], jnp.int32),
                seed=jnp.array([cell.seed % 2**32 if cell else 0 for cell in cells], jnp.uint32),
            )
        )

    def _rows(self) -> np.ndarray:
        """`[K, N, B]` sample rows of the next dispatch, with B = 0 when every step reads everything."""
        if self.optim.batch(self.samples) >= self.samples:
            return np.zeros((self.steps, self.count, 0), np.int32)
        rows = np.full((self.steps, self.count, self.optim.batch(self.samples)), -1, np.int32)
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

    def _alive(self, lane: _Running) -> bool:
        """Whether the last dispatch can still learn: an overflow ends in NaN, or in a loss that has no gradient."""
        last = lane.metrics[-1]
        dead = (last.gradient_norm == 0) & (last.objective > NO_LOSS)
        return bool(np.isfinite(last.objective).all() and not dead.any())

    def _verify(self) -> list[RecallReport]:
        nats, right = verify(
            self.config, self.program.cut, self.upper, self.data, self.lanes.weights, self.settings.scale
        )
        mask, keys = self.encoded.answer_mask, self.encoded.keys
        return [RecallReport(nats=n, right=r, mask=mask, keys=keys) for n, r in zip(nats, right, strict=True)]

    def _harvest(self, finished: list[int]) -> Iterator[Outcome]:
        reports = self._verify()
        assert self.initial is not None
        for i in finished:
            lane, final = self.running[i], reports[i]
            assert lane is not None
            self.running[i] = None
            whole: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *lane.metrics)
            weights = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), self.lanes.weights)
            yield Outcome(
                cell=lane.cell,
                weights=trim_rank(weights, lane.cell.lora.rank),
                initial=self.initial,
                final=final,
                history=History(loss=whole.loss, accuracy=whole.accuracy, gradient_norm=whole.gradient_norm),
                steps=lane.done,
                token_visits=lane.token_visits,
                # the last update itself can blow up, which only the verification sees
                stopped="budget" if self._alive(lane) and np.isfinite(final.nats).all() else "diverged",
                started=lane.started,
                seconds=lane.seconds,
            )


@functools.partial(jax.jit, donate_argnums=0)
def _put(lanes: Lane, fresh: Lane, index: int) -> Lane:
    """The lanes with a fresh one at `index`."""
    return jax.tree.map(lambda stack, leaf: stack.at[index].set(leaf), lanes, fresh)
