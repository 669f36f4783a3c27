"""What the host keeps of a lane."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from memlaw_jax.results import now
from memlaw_jax.training.cell import Cell, History, Stop
from memlaw_jax.training.order import Order
from memlaw_jax.training.step import Metrics

NO_LOSS = 1e-3  # nats; below it a gradient may round to zero in an adapter that is merely done


@dataclass(kw_only=True)
class Running:
    """The cell in a lane and what it has logged."""

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
