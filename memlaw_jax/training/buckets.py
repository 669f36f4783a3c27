"""Shapes that several data sets share, so that their cells share lanes and a compiled step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memlaw_jax.tasks import Encoded
from memlaw_jax.training.cell import Cell, Stop
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.placement import Placement


def rounded(size: int) -> int:
    """A size rounded up to an eighth of the power of two below it: at most 12.5 % more."""
    step = max(1, (1 << (size - 1).bit_length()) // 16)
    return -(-size // step) * step


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What a step of training reads at once.

    Attributes:
      whole: whether a step reads a whole data set, in its own order, instead of picked samples.
      samples: of a step.
      width: tokens of a sample.
      slots: answer slots of a sample.
    """

    whole: bool
    samples: int
    width: int
    slots: int

    @classmethod
    def of(cls, encoded: Encoded, batch: int, shuffled: bool) -> Bucket:
        """The bucket of a data set that is read `batch` samples at a time, `shuffled` or as it is."""
        samples, width = encoded.tokens.shape
        whole = batch >= samples and not shuffled
        return cls(
            whole=whole,
            samples=rounded(samples) if whole else batch,
            width=rounded(width),
            slots=rounded(encoded.labels.shape[1]),
        )


def grouped(
    sets: Sequence[Encoded],
    cells: Sequence[Cell],
    optim: OptimConfig,
    placement: Placement,
    source: Callable[[Encoded], int],
) -> list[tuple[Bucket, list[Cell]]]:
    """The cells that can share lanes, in the order of the first of each.

    Args:
      source: gives data sets that share their features the same number.

    Raises:
      UserError: a step with fewer samples than the mesh splits them among.
    """
    groups: dict[tuple[Bucket, int], list[Cell]] = {}
    for cell in cells:
        encoded = sets[cell.data]
        bucket = Bucket.of(encoded, optim.batch(len(encoded.tokens)), cell.curriculum is not None)
        bucket = dataclasses.replace(bucket, samples=placement.samples(bucket.samples))
        groups.setdefault((bucket, source(encoded)), []).append(cell)
    return [(bucket, group) for (bucket, _), group in groups.items()]


def lane_count(cells: int, lanes: int, placement: Placement) -> int:
    """How many lanes serve so many cells: rounds of the same number, at most `lanes`, that the mesh splits evenly."""
    return placement.fit(math.ceil(cells / math.ceil(cells / lanes)))


def dispatch_steps(longest: int, most: int, stop: Stop) -> int:
    """Optimiser steps of a dispatch, at most `most`, where the longest cell has so many.

    All are the same, unless cells can end at the end of one, which must not depend on the cells that are left.
    """
    return math.ceil(longest / math.ceil(longest / most)) if stop == "budget" else min(most, longest)
