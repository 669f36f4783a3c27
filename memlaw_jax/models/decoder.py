"""The decoder: one Linen module with scanned layers, and pure functions that run any part of it.

`params` holds `embed_tokens`, `layers` (every leaf stacked over layers), `norm`, and `lm_head` unless tied.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.layers import KERNEL_INIT, Block, Dropout, RmsNorm
from memlaw_jax.sharding import GATHERED, gather

Params = dict[str, Any]


# What a backward pass computes again instead of keeping it: nothing; all but the results of matrix products, which is
# cheap, since frozen weights need no activations for a gradient of their own; or whole blocks.
Remat = Literal["none", "dots", "blocks"]
# So few blocks are unrolled: a loop copies their weights out of a stack and what they keep for the backward pass into
# one. Where memory is short it stays a loop, which holds a block's own arrays one block at a time; and in bfloat16,
# where the compiler would leave out roundings between blocks.
UNROLLED = 4
_KEPT = {
    "none": jax.checkpoint_policies.save_anything_except_these_names(GATHERED),
    "dots": jax.checkpoint_policies.dots_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


def layer_stack(
    config: DecoderConfig,
    length: int,
    name: str | None = None,
    dropout: float = 0.0,
    remat: Remat = "none",
    unroll: bool = False,
    parts: bool = False,
) -> nn.Module:
    """`length` blocks as one scan: traced and, unless unrolled, compiled once, however deep the model is.

    With `parts` each device has a part of the weights; they are gathered for each block, and again when it goes back.
    """
    block: Any = Block
    if parts:
        block = nn.map_variables(Block, "params", trans_in_fn=lambda weights: gather(weights, config.hidden_size))
    if parts or remat != "none":
        block = nn.remat(block, policy=_KEPT[remat], prevent_cse=False)  # in a loop there is nothing to merge with
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "lora": 0, "cache": 0, "fresh": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, nn.broadcast),
        length=length,
        unroll=length if unroll else 1,
    )
    return scanned(config, dropout, name=name)


class Head(nn.Module):
    """The output head; its logits are float32 sums, never rounded to the dtype of the hidden states."""

    vocab_size: int

    @nn.compact
    def __call__(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        return head_logits(self.param("kernel", KERNEL_INIT, (hidden.shape[-1], self.vocab_size)), hidden)


class Decoder(nn.Module):
    """Tokens to logits, without an adapter; `init` makes the frozen parameters."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"] | None = None,
        valid: Bool[Array, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:  # fmt: skip
        cfg = self.config
        embedding = nn.Embed(cfg.vocab_size, cfg.hidden_size, embedding_init=KERNEL_INIT, name="embed_tokens")
        positions = default_positions(tokens) if positions is None else positions
        hidden, _ = layer_stack(cfg, cfg.num_layers, "layers")(embedding(tokens), positions, valid)
        hidden = RmsNorm(cfg.rms_norm_eps, name="norm")(hidden)
        if cfg.tie_word_embeddings:
            return head_logits(embedding.embedding.T, hidden)
        return Head(cfg.vocab_size, name="lm_head")(hidden)


def default_positions(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """0, 1, 2, … in every row."""
    return jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)


def embed(params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Token embeddings."""
    return jnp.take(params["embed_tokens"]["embedding"], tokens, axis=0)


def run_layers(
    config: DecoderConfig,
    layers: Params,
    hidden: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    valid: Bool[Array, "B T"] | None = None,
    lora: Params | None = None,
    dropout: Dropout | None = None,
    remat: Remat = "none",
) -> Float[Array, "B T D"]:
    """Runs the blocks whose stacked weights are `layers`; `lora`, where given, is stacked over the same blocks."""
    length = jax.tree.leaves(layers)[0].shape[0]
    variables = {"params": layers} | ({"lora": lora} if lora else {})
    parts = layers["mlp"]["gate_proj"]["kernel"].shape[-2] != config.hidden_size
    unroll = length <= UNROLLED and remat == "none" and hidden.dtype == jnp.float32 and not parts
    if lora is None or dropout is None:
        stack: Any = layer_stack(config, length, remat=remat, unroll=unroll, parts=parts)
        return stack.apply(variables, hidden, positions, valid)[0]
    stack = layer_stack(config, length, dropout=dropout.rate, remat=remat, unroll=unroll, parts=parts)
    return stack.apply(variables, hidden, positions, valid, rngs={"dropout": dropout.key})[0]


def take_layers(layers: Params, start: int, stop: int) -> Params:
    """Blocks `start … stop − 1` of a stack. Under jit this copies: call it outside, once."""
    if start == 0 and stop == jax.tree.leaves(layers)[0].shape[0]:
        return layers
    return jax.tree.map(lambda leaf: leaf[start:stop], layers)


def final_norm(config: DecoderConfig, norm: Params, hidden: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The norm before the head."""
    module: Any = RmsNorm(config.rms_norm_eps)
    return module.apply({"params": norm}, hidden)


def head_kernel(config: DecoderConfig, params: Params) -> Float[Array, "D V"]:
    """The output head's matrix, tied or not."""
    return params["embed_tokens"]["embedding"].T if config.tie_word_embeddings else params["lm_head"]["kernel"]


def head_logits(kernel: Float[Array, "D V"], hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Float32 logits of normalised hidden states."""
    return jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
