"""Per-token losses of a frozen head: what every objective and every metric needs, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class TokenScores:
    """For each answer token: its loss −ln p in nats (float32), and whether it is the arg-max."""

    nats: Float[Array, "*B A"]
    right: Bool[Array, "*B A"]


def token_scores(hidden: Float[Array, "*B A D"], head: Float[Array, "D V"], labels: Int[Array, "*B A"]) -> TokenScores:
    """Scores labels under the head's softmax, in float32; differentiable in `hidden`.

    `hidden` is normalised and gathered at the answer's positions. Ties count as right when the label is the first of
    the largest, as greedy decoding with `argmax` breaks them. A label outside the vocabulary, such as −100, marks no
    token: it scores as some other label would, never as right, and belongs under a False mask.
    """
    logits = jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")[..., 0]
    top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    # A loss near zero is what the rarer tokens' small terms add up to. Summed beside the largest term, 1, many of them
    # round away, and the loss and its gradient come out too small; so that term is kept apart and taken off again.
    terms, largest = jnp.exp(logits - top), jax.lax.stop_gradient(logits) == top
    rest = jnp.where(largest, 0.0, terms).sum(axis=-1) + (jnp.where(largest, terms, 0.0).sum(axis=-1) - 1)
    nats = jnp.log1p(rest) - (chosen - top[..., 0])
    # The first index of the largest as a minimum: XLA vectorises this on a CPU, and not its argmax.
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    first = jnp.where(largest, index, logits.shape[-1]).min(axis=-1)
    return TokenScores(nats=nats, right=(first == labels) & (labels < logits.shape[-1]))
