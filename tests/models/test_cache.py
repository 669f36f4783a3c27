"""The key/value cache: token by token, the decoder says what it says of the whole text at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.models import DecoderConfig, LoraConfig, advance, head_logits, prefill, remember, scaled, spread
from memlaw_jax.models.decoder import head_kernel

from . import tiny
from .conftest import Model
from .forward import compiled, counted, decode, everywhere, random_adapter
from .test_model_cut import captured_bytes, shapes

pytestmark = pytest.mark.usefixtures("quick_compiler")

# Sums in another order: 1e-6 at unit scale, a little more after five blocks (test_model_cut).
SAME = {"rtol": 0, "atol": 1e-5}
LORA = LoraConfig(rank=3, targets=("mlp", "k_proj", "v_proj", "down_proj"), layers=(2, 0), alpha=6.0)
STARTS = np.array([5, 3, 1])  # what of each row is its prompt
TOKENS = np.random.default_rng(3).integers(0, tiny.VOCABULARY, (3, 16)).astype(np.int32)  # longer than any window


def one_by_one(config: DecoderConfig, params: Any, lora: Any, tokens: Any, prompts: Any, starts: Any) -> jax.Array:
    """Logits `[B, 1 + steps, V]` at each row's last prompt token and at those that follow, from the cache."""
    hidden, cache = prefill(config, params, prompts, tokens.shape[1], lora)
    last = jnp.take_along_axis(hidden, starts[:, None, None] - 1, axis=1)

    def step(cache: Any, index: jax.Array) -> tuple[Any, jax.Array]:
        positions = starts + index
        token = jnp.take_along_axis(tokens, positions[:, None], axis=1)[:, 0]
        hidden, fresh = advance(config, params, cache, token, positions, lora)
        return remember(cache, fresh, positions), hidden

    _, rest = jax.lax.scan(step, cache, jnp.arange(tokens.shape[1] - STARTS.max()))
    return head_logits(head_kernel(config, params), jnp.concatenate([last, rest.swapaxes(0, 1)], axis=1))


cached_logits = compiled(0)(one_by_one)


def prompts() -> np.ndarray:
    """The rows up to where they start, padded with what is not what follows."""
    width = int(STARTS.max())
    padded = (TOKENS[:, :width] + 1) % tiny.VOCABULARY
    return np.where(np.arange(width) < STARTS[:, None], TOKENS[:, :width], padded)


def at_the_same_places(logits: Any) -> np.ndarray:
    places = STARTS[:, None] - 1 + np.arange(TOKENS.shape[1] - STARTS.max() + 1)
    return np.take_along_axis(np.asarray(logits), places[..., None], axis=1)


@pytest.mark.parametrize("name", ["qwen3", "llama3-old-schema", "qwen2-sliding-tied", "mistral"])
def test_cached_logits_are_those_of_the_whole_text(name: str, model: Callable[..., Model]) -> None:
    """Norms, biases, windows, scaled positions; rows that start apart; an adapter that changes keys and values.

    (tests/readout has every family.)
    """
    made = model(name)
    own = random_adapter(made.config, LORA, 1)
    lora = spread(scaled(own, LORA.scale), LORA.adapted_layers(made.config), made.config.num_layers)
    found = np.asarray(cached_logits(made.config, made.params, lora, TOKENS, prompts(), STARTS))
    want = everywhere(made.config, made.params, TOKENS, counted(TOKENS), lora)
    np.testing.assert_allclose(found, at_the_same_places(want), **SAME)
    assert np.abs(found - at_the_same_places(decode(made.config, made.params, TOKENS))).max() > 0.1


def test_cached_logits_without_an_adapter(model: Callable[..., Model]) -> None:
    made = model("qwen3")
    found = cached_logits(made.config, made.params, None, TOKENS, prompts(), STARTS)
    np.testing.assert_allclose(found, at_the_same_places(decode(made.config, made.params, TOKENS)), **SAME)


@compiled(0)
def go_on(config: DecoderConfig, params: Any, cache: Any, tokens: Any, positions: Any) -> Any:
    hidden, fresh = advance(config, params, cache, tokens, positions)
    return hidden, remember(cache, fresh, positions)


@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_what_stands_at_and_beyond_a_position_is_not_seen(name: str, model: Callable[..., Model]) -> None:
    """Bit for bit; and a token writes its own slot alone, or none if there is none for it."""
    made = model(name)
    _, cache = compiled(0, 3)(prefill)(made.config, made.params, TOKENS, 16)
    positions = np.array([7, 0, 16])
    slots = np.arange(16) >= positions[:, None]
    noise = np.random.default_rng(0)

    def spoil(leaf: Any, free: np.ndarray) -> np.ndarray:
        return np.where(free, noise.standard_normal(leaf.shape) * 1e3, leaf).astype(np.float32)

    keys, values = cache["self_attn"]["k"], cache["self_attn"]["v"]
    spoilt = {"k": spoil(keys, slots[:, None, None]), "v": spoil(values, slots[:, None, :, None])}
    clean, _ = go_on(made.config, made.params, cache, TOKENS[:, 3], positions)
    found, after = go_on(made.config, made.params, {"self_attn": spoilt}, TOKENS[:, 3], positions)
    np.testing.assert_array_equal(found, clean)
    changed_k = (np.asarray(after["self_attn"]["k"]) != spoilt["k"]).any(axis=(0, 2, 3))
    changed_v = (np.asarray(after["self_attn"]["v"]) != spoilt["v"]).any(axis=(0, 2, 4))
    for changed in (changed_k, changed_v):
        np.testing.assert_array_equal(changed, np.arange(16) == positions[:, None])


def test_nothing_large_is_captured() -> None:
    """Frozen weights and the cache are arguments (STYLE.md, 1)."""
    config = DecoderConfig.qwen3_8b()
    tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    _, cache = jax.eval_shape(lambda p, t: prefill(config, p, t, 8192), shapes(config), tokens)
    assert cache["self_attn"]["k"].shape == (36, 2, 8, 128, 8192)
    one = jax.ShapeDtypeStruct((2,), jnp.int32)

    def both(params: Any, cache: Any, tokens: Any, one: Any) -> Any:
        _, made = prefill(config, params, tokens, 8192)
        _, fresh = advance(config, params, cache, one, one)
        return made, remember(cache, fresh, one)

    assert captured_bytes(jax.make_jaxpr(both)(shapes(config), cache, tokens, one)) < 1 << 20
