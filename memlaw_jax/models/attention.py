"""Causal grouped-query attention, in the form that suits the platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    valid: Bool[Array, "B T"] | None = None,
    window: int | None = None,
) -> Float[Array, "B T H d"]:
    """Softmax attention of each token over itself and those before it, at most `window` of them, scaled by 1/√d.

    `valid` says which tokens are no padding. Scores and softmax are float32. On a CPU heads come first, so that every
    product is a plain batched GEMM, which takes XLA half the time of `jax.nn.dot_product_attention`.
    """
    if jax.default_backend() == "cpu":
        return _heads_first(q, k, v, valid, window)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        mask=None if valid is None else valid[:, None, None, :],
        # jax counts the keys to the left of the query, Hugging Face the window with the query in it
        local_window_size=None if window is None else (window - 1, 0),
    )


def _heads_first(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    valid: Bool[Array, "B T"] | None,
    window: int | None,
) -> Float[Array, "B T H d"]:
    batch, tokens, heads, width = q.shape
    groups = k.shape[2]
    # Heads that share keys and values become rows of one product.
    rows = q.reshape(batch, tokens, groups, heads // groups, width).transpose(0, 2, 3, 1, 4)
    rows = (rows * width**-0.5).reshape(batch, groups, -1, width)
    keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkqd,bksd->bkqs", rows, keys, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, groups, heads // groups, tokens, tokens)
    distance = jnp.arange(tokens)[:, None] - jnp.arange(tokens)
    seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    if valid is not None:
        seen = seen & valid[:, None, None, None, :]
    # A row of padding may see nothing; a finite floor keeps it from becoming NaN.
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1).astype(q.dtype)
    mixed = jnp.einsum("bkqs,bksd->bkqd", weights.reshape(batch, groups, -1, tokens), values)
    mixed = mixed.reshape(batch, groups, heads // groups, tokens, width).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, tokens, heads, width)
