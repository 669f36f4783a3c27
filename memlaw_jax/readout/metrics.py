"""Every recall metric, from per-token arrays: is each answer token right, and what did it cost in nats?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from memlaw_jax.errors import UserError

HALF = np.log(2)  # nats of p = ½


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Which answer tokens of S samples, in up to A slots, come out right.

    Attributes:
      right: whether each is.
      mask: the counted slots.
      keys: the samples' names.
    """

    right: Bool[np.ndarray, "S A"]
    mask: Bool[np.ndarray, "S A"]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise UserError("there is no answer token to score.")

    @property
    def token_accuracy(self) -> float:
        """Share of answer tokens that are right."""
        return float(self.right[self.mask].mean())

    @property
    def recalled(self) -> Bool[np.ndarray, " S"]:
        """Samples that are reproduced verbatim."""
        return (self.right | ~self.mask).all(axis=1)

    @property
    def exact_match(self) -> float:
        """Share of samples reproduced verbatim (the paper's AccEM)."""
        return float(self.recalled.mean())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval of the exact match, taking the samples for independent draws (Wilson 1927).

        Raises:
          UserError: a level that is not between 0 and 1.
        """
        from scipy.stats import binomtest  # half a second to import

        _check_probability("level", level)
        test = binomtest(int(self.recalled.sum()), len(self.recalled))
        low, high = test.proportion_ci(confidence_level=level, method="wilson")
        return float(low), float(high)

    @property
    def first_failures(self) -> Int[np.ndarray, " S"]:
        """Answer tokens that come out right before the first that does not; −1 where there is none."""
        wrong = ~self.right & self.mask
        return np.where(wrong.any(axis=1), wrong.argmax(axis=1), -1)

    @property
    def first_failure(self) -> float | None:
        """Mean of `first_failures` over the samples that fail; None when none does."""
        failed = self.first_failures[self.first_failures >= 0]
        return float(failed.mean()) if failed.size else None


@dataclass(frozen=True, kw_only=True)
class FreeRun(Agreement):
    """Answers decoded from their prompts alone; `right` is whether a token is the true one at its position.

    Its `token_accuracy` is the paper's AccTok; after a first error nearly everything is wrong.

    Attributes:
      ids: the decoded tokens, 0 in slots that are not counted.
    """

    ids: Int[np.ndarray, "S A"]


@dataclass(frozen=True, kw_only=True)
class RecallReport(Agreement):
    """Teacher-forced recall; `right` is whether a token is the arg-max of the logits, given the true ones before it.

    Up to a sample's first failure and no further, that is what greedy decoding gives; so `recalled`, `exact_match` and
    `first_failures` are those of greedy decoding (DESIGN.md, idea 9), `token_accuracy` is not.

    Attributes:
      nats: −ln p of each answer token.
    """

    nats: Float[np.ndarray, "S A"]

    @property
    def loss(self) -> float:
        """Mean nats per answer token."""
        return float(self.nats[self.mask].mean(dtype=np.float64))

    @property
    def p_min(self) -> float:
        """The smallest probability of any answer token."""
        return float(np.exp(-self.nats[self.mask].max()))

    @property
    def fraction_above_half(self) -> float:
        """Share of answer tokens with p > ½, each of which greedy decoding is bound to get right."""
        return float(self._above_half[self.mask].mean())

    @property
    def recalled_below_half(self) -> float:
        """Share of answer tokens that are right although p ≤ ½, as the largest of several smaller probabilities."""
        return float((self.right & ~self._above_half)[self.mask].mean())

    @property
    def above_half_missed(self) -> int:
        """Count of answer tokens with p > ½ that are not right: none, but for rounding (the paper's second claim)."""
        return int((~self.right & self._above_half)[self.mask].sum())

    @property
    def sample_nats(self) -> Float[np.ndarray, " S"]:
        """−ln p_z of each whole answer z: the sum over its tokens, in nats."""
        return np.where(self.mask, self.nats, 0).sum(axis=1, dtype=np.float64)

    def extraction(self, draws: float | Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
        """Probability of each sample to come out verbatim at least once in `draws` samplings at temperature 1.

        1 − (1 − p_z)ⁿ (Hayes et al. 2024, arXiv 2410.19482, section 3), where p_z is exp(−`sample_nats`).
        """
        if np.min(draws) < 1:
            raise UserError(f"draws is {np.min(draws)}; it must be 1 or more.")
        return -np.expm1(draws * self._log_miss)

    def discoverable(self, draws: float, probability: float) -> float:
        """Share of samples that are (n, p)-discoverable: `extraction(draws)` is at least `probability`."""
        _check_probability("probability", probability)
        return float((self.extraction(draws) >= probability).mean())

    def draws_needed(self, probability: float) -> Float[np.ndarray, " S"]:
        """The fewest draws that find each sample with this probability; infinite where p_z is 0 in float64."""
        _check_probability("probability", probability)
        with np.errstate(divide="ignore"):
            return np.maximum(1.0, np.ceil(np.log1p(-probability) / self._log_miss))

    @property
    def _above_half(self) -> Bool[np.ndarray, "S A"]:
        return self.nats < HALF

    @property
    def _log_miss(self) -> Float[np.ndarray, " S"]:
        """ln(1 − p_z), exact for p_z near 0 and near 1 (Mächler 2012, log1mexp)."""
        nats = np.maximum(self.sample_nats, 0.0)
        with np.errstate(divide="ignore"):
            return np.where(nats < HALF, np.log(-np.expm1(-nats)), np.log1p(-np.exp(-nats)))


def _check_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise UserError(f"{name} is {value}; it must be between 0 and 1.")
