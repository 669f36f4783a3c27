"""The throughput benchmark's arithmetic against what XLA counts in the programs themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from throughput_flops import needed, released

from memlaw_jax.models import (
    Cut,
    Decoder,
    DecoderConfig,
    LoraConfig,
    frozen_features,
    head_logits,
    init_adapter,
    run_upper,
    upper_weights,
)

# XLA counts a loop's body once, so each segment of blocks has one: block 0 frozen, 1 adapted, 2 above.
CONFIG = DecoderConfig(
    family="qwen3", vocab_size=2048, hidden_size=256, intermediate_size=768, num_layers=3, num_heads=4, num_kv_heads=2,
    head_dim=64,
)  # fmt: skip
LORA = LoraConfig(rank=8, layers=(1,))
TOKENS, ANSWERS = 128, 108


def counted(cached: bool) -> float:
    """FLOPs that XLA counts in the loss and its gradient, before it optimises."""
    cut = Cut.of(CONFIG, LORA) if cached else Cut.nowhere(CONFIG, LORA)
    tokens, positions = jnp.zeros((1, TOKENS), jnp.int32), jnp.arange(TOKENS)[None]
    params = jax.eval_shape(Decoder(CONFIG).init, jax.random.key(0), tokens)["params"]
    features = jax.eval_shape(lambda params: frozen_features(CONFIG, params, cut, tokens, positions), params)
    upper = jax.eval_shape(lambda params: upper_weights(CONFIG, params, cut), params)

    def loss(weights, upper, features):
        hidden = run_upper(CONFIG, upper, cut, features, positions, weights)[:, -ANSWERS:]
        return jax.nn.logsumexp(head_logits(upper.head, hidden), axis=-1).sum()

    weights = jax.eval_shape(lambda: init_adapter(CONFIG, LORA, jax.random.key(0)))
    return jax.jit(jax.value_and_grad(loss)).lower(weights, upper, features).cost_analysis()["flops"]


@pytest.mark.parametrize("cached", [True, False])
def test_what_a_step_needs_is_what_xla_counts(cached: bool):
    """XLA also counts norms, softmax and activations, some 5 % at this width, and of the T² pairs what is computed."""
    least, most = (
        needed(CONFIG, layer=1, rank=8, tokens=TOKENS, answers=ANSWERS, cached=cached, causal=causal)
        for causal in (True, False)
    )
    assert least < counted(cached) < 1.1 * most < 1.2 * least


def test_the_released_procedure_does_more_than_three_times_what_is_needed():
    """Two whole forward passes and a backward one through 11 blocks, for 11 blocks forward and backward."""
    qwen = DecoderConfig.qwen3_8b()
    blocks = (2 * 36 + 11) / (2 * 11)  # without the head and attention, which both do more than once
    for tokens in (200, 2000, 8000):
        shape = {"layer": qwen.paper_layer, "rank": 16, "tokens": tokens}
        ratio = released(qwen, **shape) / needed(qwen, answers=tokens - 40, **shape)
        assert 3 < ratio < blocks


def test_frozen_features_spare_what_is_below_the_bypass():
    shape = {"layer": 1, "rank": 8, "tokens": TOKENS, "answers": ANSWERS}
    spared = needed(CONFIG, cached=False, **shape) - needed(CONFIG, **shape)
    above = needed(CONFIG, **shape | {"rank": 0, "answers": 0})
    # forward of two blocks and backward of one, beside forward and backward of the third
    assert 1.4 < spared / above < 1.6
