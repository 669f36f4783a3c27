"""The memory that the compiler sets aside for a step's losses and gradient; nothing is run."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from memlaw_jax.objectives import TokenScores, token_loss, token_scores

from .plain_head import plain_scores

WIDTH, VOCABULARY, FLOAT = 64, 2048, 4
CHUNK = token_loss.CHUNK_TOKENS.get(jax.default_backend(), token_loss.CHUNK_TOKENS_ELSEWHERE)


def temporary(scores: Callable[..., TokenScores], tokens: int, vocabulary: int, adapters: int) -> int:
    """Bytes beside arguments and results."""

    def loss(hidden: jax.Array, head: jax.Array, labels: jax.Array) -> jax.Array:
        return scores(hidden, head, labels).nats.mean()

    hidden = jax.ShapeDtypeStruct((adapters, 1, tokens // adapters, WIDTH), jnp.float32)
    head = jax.ShapeDtypeStruct((WIDTH, vocabulary), jnp.float32)
    labels = jax.ShapeDtypeStruct(hidden.shape[:-1], jnp.int32)
    step = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None, 0)))
    return step.lower(hidden, head, labels).compile().memory_analysis().temp_size_in_bytes


def bound(tokens: int, vocabulary: int) -> int:
    """A chunk's logits, their exponentials, its shares and one more; the pull of all tokens, twice."""
    return 4 * CHUNK * vocabulary * FLOAT + 2 * tokens * WIDTH * FLOAT


@pytest.mark.parametrize("adapters", [1, 8])
@pytest.mark.parametrize("tokens", [2 * CHUNK, 8 * CHUNK, 32 * CHUNK])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, 4 * VOCABULARY])
def test_a_step_holds_the_logits_of_a_chunk_and_no_more(tokens: int, vocabulary: int, adapters: int) -> None:
    assert temporary(token_scores, tokens, vocabulary, adapters) <= bound(tokens, vocabulary)


def test_more_tokens_cost_their_hidden_states_and_not_their_logits() -> None:
    few, many = (temporary(token_scores, tokens, VOCABULARY, 1) for tokens in (4 * CHUNK, 32 * CHUNK))
    assert many - few <= 2 * 28 * CHUNK * WIDTH * FLOAT


def test_the_plain_computation_holds_them_all() -> None:
    """So the bounds above tell the two apart."""
    found = {tokens: temporary(plain_scores, tokens, VOCABULARY, 1) for tokens in (4 * CHUNK, 32 * CHUNK)}
    assert all(size > bound(tokens, VOCABULARY) for tokens, size in found.items())
    assert found[32 * CHUNK] - found[4 * CHUNK] >= 28 * CHUNK * VOCABULARY * FLOAT
