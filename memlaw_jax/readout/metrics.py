"""Every recall metric, from two arrays: each answer token's nats and whether it is the arg-max."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from memlaw_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """Teacher-forced recall of S samples in up to A slots, of which `mask` says which hold counted answer tokens.

    Attributes:
      nats: −ln p of each answer token.
      right: whether it is the arg-max of the logits.
      mask: the counted slots.
      keys: the samples' names.
    """

    nats: Float[np.ndarray, "S A"]
    right: Bool[np.ndarray, "S A"]
    mask: Bool[np.ndarray, "S A"]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise UserError("there is no answer token to score.")

    @property
    def loss(self) -> float:
        """Mean nats per answer token."""
        return float(self.nats[self.mask].mean(dtype=np.float64))

    @property
    def token_accuracy(self) -> float:
        """Share of answer tokens that are the arg-max, given the true tokens before them."""
        return float(self.right[self.mask].mean())

    @property
    def recalled(self) -> Bool[np.ndarray, " S"]:
        """Samples that greedy decoding reproduces verbatim."""
        return (self.right | ~self.mask).all(axis=1)

    @property
    def exact_match(self) -> float:
        """Share of samples reproduced verbatim (the paper's AccEM)."""
        return float(self.recalled.mean())

    @property
    def first_failures(self) -> Int[np.ndarray, " S"]:
        """Answer tokens that greedy decoding gets right before its first error; −1 where there is none."""
        wrong = ~self.right & self.mask
        return np.where(wrong.any(axis=1), wrong.argmax(axis=1), -1)

    @property
    def first_failure(self) -> float | None:
        """Mean of `first_failures` over the samples that fail; None when none does."""
        failed = self.first_failures[self.first_failures >= 0]
        return float(failed.mean()) if failed.size else None

    @property
    def p_min(self) -> float:
        """The smallest probability of any answer token."""
        return float(np.exp(-self.nats[self.mask].max()))

    @property
    def fraction_above_half(self) -> float:
        """Share of answer tokens with p > ½, each of which greedy decoding is bound to get right."""
        return float((self.nats[self.mask] < np.log(2)).mean())
