"""The order in which a cell reads its samples."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which samples a cell reads at each step: a fresh shuffle each epoch, drawn from the cell's seed alone."""

    seed: int
    samples: int
    batch: int

    def rows(self, start: int, steps: int) -> Int[np.ndarray, "K B"]:
        """Sample rows of the steps `start … start + steps − 1`; −1 fills up the last batch of an epoch."""
        per_epoch = -(-self.samples // self.batch)
        out = np.full((steps, self.batch), -1, np.int32)
        for i, step in enumerate(range(start, start + steps)):
            epoch, index = divmod(step, per_epoch)
            rows = self._shuffle(epoch)[index * self.batch : (index + 1) * self.batch]
            out[i, : len(rows)] = rows
        return out

    @functools.lru_cache(maxsize=4)  # noqa: B019 - a few small arrays, and orders are few and short-lived
    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.samples).astype(np.int32)
