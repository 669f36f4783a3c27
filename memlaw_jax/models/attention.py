"""Causal grouped-query attention, in the form that suits the platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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


def attend_cached(
    q: Float[Array, "B H d"],
    k: Float[Array, "B K d"],
    v: Float[Array, "B K d"],
    cached_k: Float[Array, "B K d C"],
    cached_v: Float[Array, "B K C d"],
    positions: Int[Array, " B"],
    window: int | None = None,
) -> Float[Array, "B H d"]:
    """The same attention of one token a row, over itself and a cache whose slot i holds the token at position i.

    What stands in the slots from its own position on is not seen. Cached keys lie as the product wants them: a CPU
    takes two to six times as long where it must transpose them.
    """
    batch, heads, width = q.shape
    rows = q.reshape(batch, k.shape[1], -1, width) * width**-0.5
    own = jnp.einsum("bkqd,bkd->bkq", rows, k, preferred_element_type=jnp.float32)[..., None]
    scores = jnp.einsum("bkqd,bkdc->bkqc", rows, cached_k, preferred_element_type=jnp.float32)
    distance = positions[:, None] - jnp.arange(cached_k.shape[-1])
    seen = ((distance > 0) & _in_reach(distance, window))[:, None, None]
    scores = jnp.concatenate([own, jnp.where(seen, scores, jnp.finfo(jnp.float32).min)], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    mixed = weights[..., :1] * v[:, :, None] + jnp.einsum("bkqc,bkcd->bkqd", weights[..., 1:], cached_v)
    return mixed.reshape(batch, heads, width)


def _in_reach(distance: Int[Array, "*B"], window: int | None) -> Bool[Array, "*B"]:
    """Whether a key so many tokens before the query is one that it sees."""
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


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
    seen = _in_reach(jnp.arange(tokens)[:, None] - jnp.arange(tokens), window)
    if valid is not None:
        seen = seen & valid[:, None, None, None, :]
    # A row of padding may see nothing; a finite floor keeps it from becoming NaN.
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1).astype(q.dtype)
    mixed = jnp.einsum("bkqs,bksd->bkqd", weights.reshape(batch, groups, -1, tokens), values)
    mixed = mixed.reshape(batch, groups, heads // groups, tokens, width).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, tokens, heads, width)
