"""The four sides of the throughput benchmark, and how each is timed.

`a` the released procedure in PyTorch, `b` the lean PyTorch loop, `c` ours with one adapter and nothing cached, `d` ours
as it ships, with N adapters in N lanes. All have dropout off and a float32 adapter, so that losses can be compared.

`c` makes one step a dispatch: of several, XLA takes what is frozen out of the loop and computes it once a dispatch.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch
from common.machine import without_places
from pytorch_reference import lean, released
from pytorch_reference.protocol import Settings, Weights
from throughput_machine import memory, release_memory, synchronise

from memlaw_jax.models import Base, Cut, LoraConfig, init_adapter
from memlaw_jax.readout import features_of
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Cell, OptimConfig, train_cells
from memlaw_jax.training.frozen import Frozen

TORCH = {"a": released, "b": lean}
BEFORE = 2  # steps of the short run of PyTorch, which the longer one is measured against
CHECKED = 4  # steps that the sides must agree on, or more; in bfloat16 no more
DISPATCHES = 2  # timed ones of ours, after one that is not


@dataclass(kw_only=True)
class Side:
    """One procedure on one sequence, with what is found: JSON types in `found`.

    Attributes:
      name: a, b, c or d.
      cells: the adapters; PyTorch trains the first.
      steps: of PyTorch that are timed in a round.
      dispatch: steps of one of ours.
      clock: seconds, of the wall or of this process alone.
    """

    name: str
    base: Base
    encoded: Encoded
    cells: list[Cell]
    steps: int
    dispatch: int = 1
    model: Any = None
    clock: Callable[[], float] = time.perf_counter
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.timed = DISPATCHES
        if self.name == "c":
            self.dispatch, self.timed = 1, max(DISPATCHES, self.steps)
        self.found |= {"side": self.name, "adapters": len(self.cells), "ms": [], "busy": []}
        if self.name not in TORCH:
            self.found["steps_per_dispatch"] = self.dispatch

    @property
    def library(self) -> str:
        return "torch" if self.name in TORCH else "jax"

    @property
    def failed(self) -> bool:
        return "failed" in self.found

    def leave_out(self, why: str) -> None:
        """Nothing more is asked of this side."""
        self.found.setdefault("failed", why)

    def losses(self, steps: int) -> np.ndarray | None:
        """Mean nats per answer token before each of the first steps of the first adapter; None where it failed."""
        return self._attempt(lambda: self._losses(steps))

    def measure(self) -> None:
        """One more value of `ms`, the milliseconds of a step of one adapter, and of `busy`, its share of a core."""
        wall, own = time.perf_counter(), time.process_time()
        value = self._attempt(self._torch if self.name in TORCH else self._ours)
        if value is not None:
            self.found["ms"].append(1e3 * value)
            self.found["busy"].append((time.process_time() - own) / (time.perf_counter() - wall))

    def measure_features(self) -> None:
        """`feature_seconds`: the part below the cut, once a data set, for the sides that cache it."""
        run = {"b": self._torch_features, "d": self._our_features}.get(self.name)
        if run:
            self._attempt(run)  # warms up
            self.found["feature_seconds"] = self._attempt(lambda: self._seconds(run))

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """None where it fails, which is noted and ends nothing else."""
        if self.failed:
            return None
        try:
            with memory(self.library, self.found):
                return work()
        except Exception as error:
            self.found["failed"] = _reason(error)
            if not self.found["failed"].startswith("out of memory"):
                traceback.print_exc()
        release_memory()  # outside the handler, whose traceback holds arrays
        return None

    def _losses(self, steps: int) -> np.ndarray:
        if self.name in TORCH:
            return self._train_torch(steps)[1]
        begun = self.clock()
        stamps, losses = self._train_ours(steps, self.dispatch)
        self.found["first_seconds"] = stamps[0] - begun
        return losses

    def _torch(self) -> float:
        short, long = (self._train_torch(steps)[0] for steps in (BEFORE, BEFORE + self.steps))
        return (long - short) / self.steps

    def _train_torch(self, steps: int) -> tuple[float, np.ndarray]:
        cell = self.cells[0]
        settings = Settings(learning_rate=cell.learning_rate, dropout=0.0, state_dtype=torch.float32, seed=cell.seed)
        rows, start = [np.arange(len(self.encoded.tokens))] * steps, torch_start(self.base, cell)
        synchronise()
        begun = self.clock()
        trained = TORCH[self.name].train(self.model, self.encoded, rows, start, settings)
        synchronise()
        return self.clock() - begun, trained.loss

    def _ours(self) -> float:
        begun = self.clock()
        stamps, _ = self._train_ours((1 + self.timed) * self.dispatch, self.dispatch)
        seconds = (stamps[-1] - stamps[0]) / (self.timed * self.dispatch)
        if "compile_seconds" not in self.found and "first_seconds" in self.found:
            # the first call did the same work up to its first look, and compiled
            self.found["compile_seconds"] = max(0.0, self.found.pop("first_seconds") - (stamps[0] - begun))
        return seconds / len(self.cells)

    def _train_ours(self, steps: int, dispatch: int) -> tuple[list[float], np.ndarray]:
        """When the host had the losses of each dispatch, and those of the first adapter."""
        stamps: list[float] = []

        def listen(cell: Cell, step: int, metrics: Any) -> None:
            if cell is self.cells[0]:
                stamps.append(self.clock())

        frozen = None if self.name == "d" else Frozen(self.base, self.cells[0].lora, cached=False)
        outcomes = train_cells(
            self.base,
            self.encoded,
            self.cells,
            optim=OptimConfig(steps=steps),
            lanes=len(self.cells),
            steps_per_dispatch=dispatch,
            frozen=frozen,
            listen=listen,
        )
        (history,) = [outcome.history.loss for outcome in outcomes if outcome.cell is self.cells[0]]
        return stamps, history

    def _seconds(self, run: Callable[[], None]) -> float:
        begun = self.clock()
        run()
        return self.clock() - begun

    def _torch_features(self) -> None:
        lean.features(self.model, self.encoded, _layer(self.base, self.cells[0].lora))
        synchronise()

    def _our_features(self) -> None:
        cut = Cut.of(self.base.config, self.cells[0].lora)
        jax.block_until_ready(features_of(self.base, cut, self.encoded.tokens))


def dispatches(steps: int, adapters: int, least: int) -> tuple[int, int]:
    """`(steps of the check, steps of a dispatch)`: the second divides the first, so that one compilation serves both.

    The more adapters, the fewer steps of each are needed for a time; but no fewer than `least`, if there are so many.
    """
    whole = max(1, steps // DISPATCHES)
    wanted = max(1, min(least, whole), whole // adapters)
    return whole * -(-CHECKED // whole), max(size for size in range(1, wanted + 1) if whole % size == 0)


def torch_start(base: Base, cell: Cell) -> Weights:
    """Our initialisation of a cell, in the reference's words."""
    fresh = init_adapter(base.config, cell.lora, jax.random.key(cell.seed))["mlp"]
    a, b = (torch.tensor(np.asarray(fresh[part][0], np.float32)) for part in ("a", "b"))
    return {f"model.layers.{_layer(base, cell.lora)}.mlp": (a, b)}


def disagreement(losses: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest relative difference of each side's losses from the first one's; infinite for losses of no number."""
    reference, *_ = losses.values()
    found = {}
    for name, values in losses.items():
        apart = np.abs(values - reference) / np.abs(reference)
        found[name] = float(apart.max()) if np.isfinite(apart).all() else float("inf")
    return found


def _layer(base: Base, lora: LoraConfig) -> int:
    return lora.adapted_layers(base.config)[0]


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if any(sign in text.lower() for sign in ("out of memory", "resource_exhausted", "no memory", "alloc_failed")):
        return f"out of memory: {without_places(text)[:160]}"
    return f"{type(error).__name__}: {without_places(text)[:200]}"
