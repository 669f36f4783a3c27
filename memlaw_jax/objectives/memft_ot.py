"""MemFT-OT (only threshold): train on the tokens that greedy decoding is not yet bound to get right."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from pydantic import Field

from memlaw_jax.objectives.objective import LossDtype, State, WhenEmpty, as_compared, settled
from memlaw_jax.objectives.token_loss import TokenScores
from memlaw_jax.settings import settings

Probability = Annotated[float, Field(gt=0, lt=1)]


@settings
class MemFTOT:
    """w = 1 where L > −ln θ, else 0 (paper, section on MemFT; PAPER.md, section 4).

    Attributes:
      threshold: θ, the probability that a token must exceed; ½ makes it the arg-max for certain.
      when_empty: where no token is left: `sft` trains on all of them, `zero` has no gradient (Adam's momentum still
        moves the weights), `skip` takes no step at all.
      losses: dtype that losses are rounded to before they are compared.
    """

    label: ClassVar[str] = "method memft-ot"
    name: ClassVar[str] = "memft-ot"
    state_of: ClassVar[Literal["sample"]] = "sample"

    threshold: Probability = 0.5
    when_empty: WhenEmpty = "sft"
    losses: LossDtype = "float32"

    @classmethod
    def release(cls, when_empty: WhenEmpty = "sft") -> MemFTOT:
        """As the paper's release computes it; its PhoneBook "SW" takes `skip`, with a curriculum."""
        return cls(when_empty=when_empty, losses="bfloat16")

    @property
    def skips(self) -> bool:
        """Whether a step without a token left is skipped."""
        return self.when_empty == "skip"

    def init(self, rows: int) -> State:
        """Nothing to remember."""
        return ()

    def weights(
        self, scores: TokenScores, mask: Bool[Array, "B A"], state: State = ()
    ) -> tuple[Float[Array, "B A"], State]:
        """1 for each trained token that is not above the threshold."""
        # Written so that a loss that is no number keeps its weight, and is seen in the mean.
        hard = mask & ~(as_compared(scores.nats, self.losses) <= -math.log(self.threshold))
        return settled(hard.astype(jnp.float32), mask, self.when_empty), state
