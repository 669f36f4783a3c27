"""The arithmetic of one step of one adapter: what the result needs, and what the release does.

A product of `[m, k]` and `[k, n]` counts 2·m·k·n; norms, softmax, activations and the optimiser count nothing. With T
tokens, A answer positions, D model width, F feed-forward width, H heads and K key/value heads of width d, V vocabulary,
r rank, L blocks, the bypass at block c, and P = T·(T + 1)/2 pairs of a token with itself or one before it:

    linear    = 2·T·(D·(H + 2K)·d + H·d·D + 3·D·F)     the products with one block's weights
    attention = 4·P·H·d                                scores and mixture; twice that in the backward pass
    above     = (L − c − 1)·(2·linear + 3·attention)   forward, and backward through the activations: no weight gradient
    adapter   = 10·T·D·r                               x·A, ·B; g·Bᵀ, gradients of A and B
    head      = 4·A·D·V                                forward and backward, at answer positions alone
    below     = (c + 1)·(linear + attention)           the frozen part: once a data set, if it is cached

Where nothing is cached `below` is done every step, and a scan of blocks also goes backwards through block c, which only
blocks above it need: linear + 2·attention more.
"""

from __future__ import annotations

from memlaw_jax.check.flops import attention, linear
from memlaw_jax.models import DecoderConfig


def needed(
    config: DecoderConfig, *, layer: int, rank: int, tokens: int, answers: int, cached: bool = True, causal: bool = True
) -> float:
    """FLOPs that one step of one adapter needs, with frozen features or, not `cached`, from the embeddings."""
    width = config.hidden_size
    block, seen = linear(config, tokens), attention(config, tokens, causal)
    above = (config.num_layers - layer - 1) * (2 * block + 3 * seen)
    adapter, head = 10.0 * tokens * width * rank, 4.0 * answers * width * config.vocab_size
    below = 0.0 if cached else (layer + 1) * (block + seen) + block + 2 * seen
    return below + above + adapter + head


def released(config: DecoderConfig, *, layer: int, rank: int, tokens: int) -> float:
    """FLOPs of a step of the release: two forward passes, logits everywhere, A·B as a D × D matrix."""
    width = config.hidden_size
    block, seen = linear(config, tokens), attention(config, tokens)
    forward = 2 * (config.num_layers * (block + seen) + 2.0 * tokens * width * config.vocab_size)
    backward = (config.num_layers - layer - 1) * (block + 2 * seen) + 2.0 * tokens * width * config.vocab_size
    adapter = 6.0 * width**2 * rank + 4.0 * tokens * width**2
    return forward + backward + adapter
