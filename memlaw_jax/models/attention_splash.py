"""Causal attention by JAX's splash attention, a Pallas kernel for TPUs that keeps no array of queries by keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LANES = 128  # a TPU register's, of which heads and blocks are multiples
LARGEST_BLOCK = 512


def attend_splash(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    window: int | None,
    interpret: bool = False,
) -> Float[Array, "B T H d"]:
    """`attention.attend` on a TPU; `interpret` runs the kernel's Python on any platform, for tests.

    Rows are filled up at their right end to a multiple of the block, where no token before looks.
    """
    tokens, width = q.shape[1], q.shape[-1]
    block = block_size(tokens)
    fill = -tokens % block
    q, k, v = (jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q * width**-0.5, k, v))
    kernel = _kernel(tokens + fill, q.shape[1], window, block, interpret)
    return jax.vmap(kernel)(q, k, v).swapaxes(1, 2)[:, :tokens]


def block_size(tokens: int) -> int:
    """The largest block, in tokens, that fills rows up by no more than an eighth."""
    block = LARGEST_BLOCK
    while block > LANES and 8 * (-tokens % block) > tokens:
        block //= 2
    return block


def _kernel(tokens: int, heads: int, window: int | None, block: int, interpret: bool):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (tokens, tokens)
    # the window counts the query, the mask's only what is left of it
    mask = splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), 0)
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
    )
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
