"""From logits to the next token: the largest, or a draw."""

from __future__ import annotations

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from memlaw_jax.settings import Count, Seed, settings


@settings
class Sampling:
    """How tokens are drawn.

    Attributes:
      temperature: what the logits are divided by.
      top_k: only the k most probable tokens are drawn, with those that tie with the last; None keeps all.
      top_p: of what top-k leaves, only the smallest set whose probability reaches p (Holtzman et al. 2020).
      seed: of all draws. A row's draws depend on the seed, its number in the data set and the token's number in its
        answer, on no other row; adapters decoded side by side share them.
    """

    label: ClassVar[str] = "sampling"

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0


def first_largest(logits: Float[Array, "*B V"]) -> Int[Array, "*B"]:
    """The first index of the largest logit, as `objectives.token_scores` breaks ties; V, which is no token, for NaN."""
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(logits == logits.max(axis=-1, keepdims=True), index, logits.shape[-1]).min(axis=-1)


def kept_logits(logits: Float[Array, " V"], sampling: Sampling) -> Float[Array, " V"]:
    """Logits of what is drawn from, −∞ for tokens left out: temperature, top-k, top-p, in transformers' order."""
    logits = (logits - logits.max()) / sampling.temperature  # below the largest, or a low temperature would overflow
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        last = jax.lax.top_k(logits, sampling.top_k)[0][-1]
        logits = jnp.where(logits < last, -jnp.inf, logits)
    if sampling.top_p < 1:
        order = jnp.argsort(logits, descending=True)
        chances = jax.nn.softmax(logits[order])
        # summed from the rare end, where float32 adds small to small: of each token, what it and the rarer ones hold
        rest = jnp.cumsum(chances[::-1])[::-1]
        kept = (rest > 1 - sampling.top_p).at[0].set(True)
        logits = jnp.where(jnp.zeros_like(kept).at[order].set(kept), logits, -jnp.inf)
    return logits


def draw(logits: Float[Array, " V"], key: PRNGKeyArray, sampling: Sampling) -> Int[Array, ""]:
    """One token from the softmax of `kept_logits`, by the Gumbel-max trick."""
    kept = kept_logits(logits, sampling)
    return first_largest(kept + jax.random.gumbel(key, kept.shape, kept.dtype))
