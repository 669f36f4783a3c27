"""Shapes that several data sets share, so that their cells share lanes and a compiled step."""

from __future__ import annotations

from dataclasses import dataclass

from memlaw_jax.tasks import Encoded


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
