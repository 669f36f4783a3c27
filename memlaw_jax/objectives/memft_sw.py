"""MemFT-SW (sliding window): train where greedy decoding now breaks off, and on what comes next."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from memlaw_jax.objectives.memft_ot import Probability
from memlaw_jax.objectives.objective import LossDtype, WhenEmpty, as_compared, settled
from memlaw_jax.objectives.token_loss import TokenScores
from memlaw_jax.settings import Count, settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NO_ANCHOR = -1


@struct.dataclass
class Window:
    """Of each row: steps that its first error has stayed in place, the window's stretch, and the error's slot."""

    patience: Int[Array, " B"]
    stretch: Float[Array, " B"]
    anchor: Int[Array, " B"]


@settings
class MemFTSW:
    """w = σ(κ(L − (−ln θ))) · d, with d = exp(−max(t − a, 0)/τ) up to the end of a window that begins at the first
    wrong arg-max a, and a floor behind it; without an error d = 1 (paper, section on MemFT; PAPER.md, section 4).

    From the `patience`-th repeat of the same a on, each stretches the window by `expansion` of its first size, up to
    `cap` times; when a moves, or there is none, the window has its first size again. Defaults are the release's
    constants.

    Attributes:
      threshold: θ, the probability that a token must exceed.
      kappa: κ, per nat; how sharply the weight falls at the threshold.
      tau: τ, tokens in which the weight falls by 1/e behind the first error.
      window: tokens.
      floor: d behind the window.
      patience: repeats of one first error before the window grows.
      expansion: growth a step, of the window's first size.
      cap: the largest window, in first sizes.
      when_empty: where all weights together are 1e-5 or less: see `MemFTOT`.
      losses: dtype that losses are rounded to before they are compared.
      state_of: whether a, patience and stretch belong to each `sample`, or to each `row` of the batch whatever sample
        is there, as in the release.
    """

    label: ClassVar[str] = "method memft-sw"
    name: ClassVar[str] = "memft-sw"

    threshold: Probability = 0.5
    kappa: Positive = 10.0
    tau: Positive = 20.0
    window: Count = 50
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01
    patience: Count = 3
    expansion: NotNegative = 0.5
    cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    when_empty: WhenEmpty = "sft"
    losses: LossDtype = "float32"
    state_of: Literal["sample", "row"] = "sample"

    @classmethod
    def release(cls) -> MemFTSW:
        """As the paper's release computes it on long context."""
        return cls(losses="bfloat16", state_of="row")

    @classmethod
    def axolotl(cls) -> MemFTSW:
        """The constants of the other open implementation (PAPER.md, section 4), with a window that never grows."""
        return cls(kappa=1.0, tau=64.0, window=64, floor=0.0, expansion=0.0, when_empty="zero")

    @property
    def skips(self) -> bool:
        """Whether a step without weight is skipped."""
        return self.when_empty == "skip"

    def init(self, rows: int) -> Window:
        """No error seen, the window at its first size."""
        return Window(
            patience=jnp.zeros(rows, jnp.int32), stretch=jnp.ones(rows), anchor=jnp.full(rows, NO_ANCHOR, jnp.int32)
        )

    def weights(
        self, scores: TokenScores, mask: Bool[Array, "B A"], state: Window
    ) -> tuple[Float[Array, "B A"], Window]:
        """Soft weights in and before the window, `floor` of them behind it; and where the window now is."""
        wrong = mask & ~scores.right
        failed, first = wrong.any(axis=-1), wrong.argmax(axis=-1).astype(jnp.int32)
        state = self._moved(state, failed, first)
        behind = jnp.arange(mask.shape[-1]) - first[:, None]
        decay = jnp.exp(-jnp.maximum(behind, 0) / self.tau)
        decay = jnp.where(behind < self.window * state.stretch[:, None], decay, self.floor)
        soft = jax.nn.sigmoid(self.kappa * (as_compared(scores.nats, self.losses) + math.log(self.threshold)))
        weights = jnp.where(mask, soft * jnp.where(failed[:, None], decay, 1.0), 0.0)
        return settled(weights, mask, self.when_empty), state

    def _moved(self, state: Window, failed: Bool[Array, " B"], first: Int[Array, " B"]) -> Window:
        patience = jnp.where(failed & (first == state.anchor), state.patience + 1, 0)
        stretched = jnp.minimum(state.stretch + self.expansion, self.cap)
        return Window(
            patience=patience,
            stretch=jnp.where(patience >= self.patience, stretched, 1.0),
            anchor=jnp.where(failed, first, NO_ANCHOR),
        )
