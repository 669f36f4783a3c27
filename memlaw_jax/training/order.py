"""The order in which a cell reads its samples, and the curriculum over them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.settings import Count, settings

PREFIX_STREAM = 1 << 20  # apart from the epochs, which number the streams of their shuffles


@settings
class Curriculum:
    """The first 20 %, 40 %, … of the samples as epochs pass (paper, section on MemFT; PAPER.md, section 4).

    Attributes:
      ratios: share of the samples that each stage reads, ascending.
      boundaries: epochs in which the second, third, … stage begins.
      order: `once` draws the order of all samples once and keeps the same batches every epoch, as the release does;
        `epoch` shuffles the active samples anew each epoch; `given` takes the data's own order.
      drop_last: leaves out what does not fill a batch, as the release does; a stage then has one batch at least.
    """

    label: ClassVar[str] = "curriculum"

    ratios: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (0.2, 0.4, 0.6, 0.8, 1.0)
    boundaries: tuple[Count, ...] = (20, 40, 60, 80)
    order: Literal["once", "epoch", "given"] = "once"
    drop_last: bool = False

    def __post_init__(self) -> None:
        if list(self.ratios) != sorted(self.ratios) or list(self.boundaries) != sorted(set(self.boundaries)):
            raise UserError(
                f"curriculum has ratios {list(self.ratios)} and boundaries {list(self.boundaries)}; both must ascend."
            )
        if len(self.boundaries) != len(self.ratios) - 1:
            raise UserError(
                f"curriculum has {len(self.ratios)} ratios and {len(self.boundaries)} boundaries; give one boundary "
                "fewer than ratios."
            )

    def active(self, ratio: float, samples: int, batch: int) -> int:
        """Samples that a stage reads each epoch."""
        count = math.floor(samples * ratio + 1e-9)  # 0.7 · 90 is 63, not 62.99…
        if not self.drop_last:
            return max(1, count)  # fewer than a batch leave its other rows empty
        return min(max(batch, count - count % batch), samples)


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which samples a cell reads at each step, drawn from its seed alone.

    Without a curriculum: all of them, in a fresh shuffle each epoch. `batch` is at most `samples`.
    """

    seed: int
    samples: int
    batch: int
    curriculum: Curriculum | None = None

    def steps(self, epochs: int) -> int:
        """Optimiser steps of so many epochs."""
        return sum((min(end, epochs) - begin) * count for begin, end, count, _ in self._stages() if begin < epochs)

    def rows(self, start: int, steps: int) -> Int[np.ndarray, "K B"]:
        """Sample rows of the steps `start … start + steps − 1`; −1 fills up the last batch of an epoch."""
        out = np.full((steps, self.batch), -1, np.int32)
        for i, step in enumerate(range(start, start + steps)):
            epoch, index, active = self._place(step)
            rows = self._epoch(epoch, active)[index * self.batch : (index + 1) * self.batch]
            out[i, : len(rows)] = rows
        return out

    def _stages(self) -> Iterator[tuple[int, int, int, int]]:
        """`(first epoch, end, steps an epoch, active samples)`; the last stage has no end."""
        forever = 1 << 62
        if self.curriculum is None:
            yield 0, forever, math.ceil(self.samples / self.batch), self.samples
            return
        bounds = (0, *self.curriculum.boundaries, forever)
        for ratio, begin, end in zip(self.curriculum.ratios, bounds, bounds[1:], strict=False):
            active = self.curriculum.active(ratio, self.samples, self.batch)
            yield begin, end, math.ceil(active / self.batch), active

    def _place(self, step: int) -> tuple[int, int, int]:
        """`(epoch, step within it, active samples)` of a step."""
        for begin, end, count, active in self._stages():
            if step < (end - begin) * count:
                epoch, index = divmod(step, count)
                return begin + epoch, index, active
            step -= (end - begin) * count
        raise AssertionError("the last stage has no end")

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a few small arrays, and orders are few and short-lived
    def _epoch(self, epoch: int, active: int) -> np.ndarray:
        if self.curriculum is None:
            return self._permutation(epoch, self.samples)
        rows = np.arange(self.samples, dtype=np.int32)
        if self.curriculum.order != "given":
            rows = self._permutation(PREFIX_STREAM, self.samples)
        rows = rows[:active]
        return rows[self._permutation(epoch, active)] if self.curriculum.order == "epoch" else rows

    def _permutation(self, stream: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.seed, stream]).permutation(count).astype(np.int32)
