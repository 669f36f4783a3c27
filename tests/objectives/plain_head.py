"""The head's losses written out: as JAX differentiates them, and in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memlaw_jax.objectives import TokenScores


def plain_scores(hidden: jax.Array, head: jax.Array, labels: jax.Array) -> TokenScores:
    """`token_scores` with all logits at once, and the compiler's gradient."""
    logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
    return TokenScores(nats=nats, right=logits.argmax(axis=-1) == labels)


def exact(hidden: Any, head: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """`(−ln p, its gradient in the hidden state)` of each token, in float64."""
    hidden, head = np.asarray(hidden, np.float64), np.asarray(head, np.float64)
    logits = hidden @ head
    behind = logits - np.take_along_axis(logits, labels[..., None], -1)
    others = np.where(np.arange(head.shape[1]) == labels[..., None], 0, np.exp(behind))
    total = others.sum(axis=-1)
    share = others / (1 + total)[..., None]
    np.put_along_axis(share, labels[..., None], (-total / (1 + total))[..., None], -1)
    return np.log1p(total), share @ head.T


def random_case(tokens: tuple[int, ...], width: int, vocabulary: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    """`(hidden, head, labels)`: every second label is the arg-max, so that losses are both large and small."""
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.standard_normal((*tokens, width)), dtype)
    head = jnp.asarray(rng.standard_normal((width, vocabulary)), dtype)
    labels = rng.integers(0, vocabulary, tokens).astype(np.int32)
    best = (np.asarray(hidden, np.float32) @ np.asarray(head, np.float32)).argmax(axis=-1)
    return hidden, head, np.where(rng.random(tokens) < 0.5, best, labels).astype(np.int32)
