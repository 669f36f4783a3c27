"""The decoder with a key/value cache: a prompt once, then a token at a time.

A slot of the cache is its token's position. Rows of different lengths therefore need no mask: what stands in the slots
from a row's current position on is never seen, and is written over when the row gets there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.decoder import Params, default_positions, embed, final_norm, layer_stack
from memlaw_jax.models.lora import AdapterWeights

# The Linen collection that the blocks look up: {"self_attn": {"k": [L, B, K, d, C], "v": [L, B, K, C, d]}}.
Cache = dict[str, Any]
Fresh = dict[str, Array]  # a token's own: {"k": [L, B, K, d], "v": [L, B, K, d]}


def prefill(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    slots: int,
    lora: AdapterWeights | None = None,
) -> tuple[Float[Array, "B T D"], Cache]:
    """Runs the whole decoder on right-padded rows and keeps keys and values, in a cache of C = `slots` ≥ T.

    Args:
      lora: an adapter over every block (`models.lora.spread`), alpha folded in.

    Returns:
      Hidden states ready for the head, and the cache.
    """
    hidden, fresh = _run(config, params, tokens, default_positions(tokens), lora)
    free = (0, slots - tokens.shape[1])
    k, v = fresh["k"].transpose(0, 1, 3, 4, 2), fresh["v"].transpose(0, 1, 3, 2, 4)
    k, v = jnp.pad(k, [(0, 0)] * 4 + [free]), jnp.pad(v, [(0, 0)] * 3 + [free, (0, 0)])
    return hidden, {"self_attn": {"k": k, "v": v}}


def advance(
    config: DecoderConfig,
    params: Params,
    cache: Cache,
    tokens: Int[Array, " B"],
    positions: Int[Array, " B"],
    lora: AdapterWeights | None = None,
) -> tuple[Float[Array, "B D"], Fresh]:
    """Runs one token a row, at its position, after all those before it; what `remember` then adds is returned too."""
    hidden, fresh = _run(config, params, tokens[:, None], positions[:, None], lora, cache)
    return hidden[:, 0], jax.tree.map(lambda leaf: leaf[:, :, 0], fresh)


def remember(cache: Cache, fresh: Fresh, positions: Int[Array, "*B"]) -> Cache:
    """The cache with the tokens that `advance` ran; a position beyond its last slot is dropped.

    Rows may have several axes, so that it can stand outside a `vmap`, and all layers are written at once, outside the
    scan: both would copy the whole cache every token.
    """
    every, rows = slice(None), jnp.ix_(*map(jnp.arange, positions.shape))
    k, v = (jnp.moveaxis(fresh[name], 0, -3) for name in "kv")  # where indexing puts the layers
    old = cache["self_attn"]
    k = old["k"].at[(every, *rows, every, every, positions)].set(k)
    v = old["v"].at[(every, *rows, every, positions)].set(v)
    return {"self_attn": {"k": k, "v": v}}


def _run(
    config: DecoderConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    lora: AdapterWeights | None,
    cache: Cache | None = None,
) -> tuple[Float[Array, "B T D"], Fresh]:
    """Hidden states ready for the head, and these tokens' keys and values `[L, B, T, K, d]`."""
    variables = {"params": params["layers"]} | ({"lora": lora} if lora else {}) | ({"cache": cache} if cache else {})
    stack: Any = layer_stack(config, config.num_layers)
    (hidden, _), new = stack.apply(variables, embed(params, tokens), positions, None, mutable=["fresh"])
    return final_norm(config, params["norm"], hidden), new["fresh"]["self_attn"]
