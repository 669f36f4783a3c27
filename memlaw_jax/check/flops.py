"""The arithmetic of a training step: what the result needs, and what is computed again to save memory.

A product of `[m, k]` and `[k, n]` counts 2·m·k·n; norms, softmax, activations and the optimiser count nothing. With T
tokens, A answer positions, D model width, F feed-forward width, H heads and K key/value heads of width d, V vocabulary,
r rank, and P = T·(T + 1)/2 pairs of a token with itself or one before it:

    linear    = 2·T·(D·(H + 2K)·d + H·d·D + 3·D·F)     the products with one block's weights
    attention = 4·P·H·d                                scores and mixture; twice that in the backward pass
    above     = blocks·(2·linear + 3·attention)        forward, and backward through the activations: no weight gradient
    adapter   = 6·T·r·(d_in + d_out) a module          x·A, ·B; g·Bᵀ, ·Aᵀ, gradients of A and B
    head      = 4·A·D·V                                forward and backward, at answer positions alone

Of modules that read frozen features nothing wants the gradient, which spares them ·Aᵀ.
"""

from __future__ import annotations

from memlaw_jax.models import Cut, DecoderConfig, LoraConfig
from memlaw_jax.models.decoder import Remat


def linear(config: DecoderConfig, tokens: int) -> float:
    """Products with one block's weights, forward."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    width = config.hidden_size
    return 2.0 * tokens * (width * (heads + 2 * kv) + heads * width + 3 * width * config.intermediate_size)


def attention(config: DecoderConfig, tokens: int, causal: bool = True) -> float:
    """Scores and mixture of one block, forward; `causal` counts the pairs that are seen and no others."""
    pairs = tokens * (tokens + 1) / 2 if causal else tokens**2
    return 4.0 * pairs * config.num_heads * config.head_dim


def step_flops(
    config: DecoderConfig, cut: Cut, lora: LoraConfig, *, rank: int, tokens: int, answers: int, remat: Remat = "none"
) -> tuple[float, float]:
    """FLOPs of one step of one adapter on one sample: in products that every chip of a `tensor` axis shares, and in the
    adapter, which each of them computes.

    Args:
      rank: what ranks are padded to.
      tokens: of the sample, padding included.
      answers: answer slots of the sample.
      remat: what the backward pass computes again.
    """
    blocks = sum(segment.stop - segment.start for segment in cut.segments)
    block, seen = linear(config, tokens), attention(config, tokens)
    last = 2.0 * tokens * config.intermediate_size * config.hidden_size  # of a block; its result is not wanted again
    again = {"none": 0.0, "dots": seen, "blocks": block - last + seen}[remat]
    shared = blocks * (2 * block + 3 * seen + again) + 4.0 * answers * config.hidden_size * config.vocab_size
    layers = len(lora.adapted_layers(config))
    adapter = 0.0
    for target in lora.targets:
        d_in, d_out = config.linear_shape(target)
        adapter += layers * 6.0 * tokens * rank * (d_in + d_out)
        if cut.inside:
            adapter -= 2.0 * tokens * rank * d_in  # the first one reads features
    return shared, adapter
