"""Plain supervised fine-tuning."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Array, Bool, Float

from memlaw_jax.objectives.objective import State
from memlaw_jax.objectives.token_loss import TokenScores
from memlaw_jax.settings import settings


@settings
class Sft:
    """Every trained token weighs the same: the mean cross-entropy."""

    label: ClassVar[str] = "method sft"
    name: ClassVar[str] = "sft"
    state_of: ClassVar[Literal["sample"]] = "sample"
    skips: ClassVar[bool] = False

    def init(self, rows: int) -> State:
        """Nothing to remember."""
        return ()

    def weights(
        self, scores: TokenScores, mask: Bool[Array, "B A"], state: State = ()
    ) -> tuple[Float[Array, "B A"], State]:
        """1 for each trained token."""
        return mask.astype(scores.nats.dtype), state
