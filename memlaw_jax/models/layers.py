"""The parts of one decoder block. Variables: frozen weights in `params`, the adapter in `lora`, keys and values of
earlier tokens in `cache` and, where asked for, of these ones in `fresh` (`models.cache`).

`dropout` is the adapter's own; the frozen modules have none.

Names below are the Hugging Face names, so that a checkpoint tensor, a LoRA target and a Linen path read the same.
Norms and softmax are computed in float32, products in the dtype of the hidden states.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from memlaw_jax.models.attention import attend, attend_cached
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.rope import rotate
from memlaw_jax.sharding import split

KERNEL_INIT = nn.initializers.normal(0.02)


def low_rank(
    x: Float[Array, "*B d_in"], a: Float[Array, "d_in R"], b: Float[Array, "R d_out"]
) -> Float[Array, "*B d_out"]:
    """x·A·B in x's dtype. Alpha is folded into B by the caller (`models.lora.scaled`)."""
    return (x @ a.astype(x.dtype)) @ b.astype(x.dtype)


@struct.dataclass
class Dropout:
    """Dropout on the outputs of an adapter: training only, a fresh `key` a step."""

    key: PRNGKeyArray
    rate: float = struct.field(pytree_node=False)

    def apart(self, index: int) -> Dropout:
        """The same dropout with draws of its own."""
        return Dropout(key=jax.random.fold_in(self.key, index), rate=self.rate)

    def __call__(self, x: Float[Array, "*B"]) -> Float[Array, "*B"]:
        kept = jax.random.bernoulli(self.key, 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0)


def bypass(module: nn.Module, x: Float[Array, "*B d_in"], dropout: float) -> Float[Array, "*B d_out"] | float:
    """`low_rank` with the module's own A and B; zero where the adapter has none for it."""
    if not module.has_variable("lora", "a"):
        return 0.0
    y = low_rank(x, module.get_variable("lora", "a"), module.get_variable("lora", "b"))
    return Dropout(key=module.make_rng("dropout"), rate=dropout)(y) if dropout else y


class RmsNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (Zhang & Sennrich 2019)."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * scale.astype(x.dtype)


class LoraDense(nn.Module):
    """A frozen linear layer with an optional low-rank bypass (Hu et al. 2021, equation 3)."""

    features: int
    use_bias: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B d_in"]) -> Float[Array, "*B d_out"]:
        kernel = self.param("kernel", KERNEL_INIT, (x.shape[-1], self.features))
        y = x @ kernel.astype(x.dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return y + bypass(self, x, self.dropout)


class Attention(nn.Module):
    """Causal grouped-query attention, with per-head q/k norm (Qwen3), biases (Qwen2) or a window (Mistral).

    With a `cache` it takes one token a row and attends over what the cache holds, needing no `valid`.
    """

    config: DecoderConfig
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], valid: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        cfg = self.config

        def heads(name: str, count: int, norm: str) -> Float[Array, "B T H d"]:
            y = LoraDense(count * cfg.head_dim, cfg.attention_bias, self.dropout, name=name)(x)
            y = y.reshape(*x.shape[:-1], count, cfg.head_dim)
            return RmsNorm(cfg.rms_norm_eps, name=norm)(y) if cfg.qk_norm and norm else y

        q = rotate(heads("q_proj", cfg.num_heads, "q_norm"), positions, cfg)
        k = rotate(heads("k_proj", cfg.num_kv_heads, "k_norm"), positions, cfg)
        v = heads("v_proj", cfg.num_kv_heads, "")
        if self.is_mutable_collection("fresh"):
            self.put_variable("fresh", "k", k)
            self.put_variable("fresh", "v", v)
        if self.has_variable("cache", "k"):
            old_k: Array = self.get_variable("cache", "k")
            old_v: Array = self.get_variable("cache", "v")
            mixed = attend_cached(q[:, 0], k[:, 0], v[:, 0], old_k, old_v, positions[:, 0], cfg.sliding_window)
        else:
            mixed = attend(q, k, v, valid, cfg.sliding_window, cfg.attention)
        return LoraDense(cfg.hidden_size, False, self.dropout, name="o_proj")(mixed.reshape(*x.shape[:-1], -1))


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020), with the paper's low-rank bypass of the whole block as its own adapter."""

    config: DecoderConfig
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        def linear(features: int, name: str) -> LoraDense:
            return LoraDense(features, dropout=self.dropout, name=name)

        width = self.config.intermediate_size
        gated = nn.silu(linear(width, "gate_proj")(x)) * linear(width, "up_proj")(x)
        return linear(self.config.hidden_size, "down_proj")(gated) + bypass(self, x, self.dropout)


class Block(nn.Module):
    """One pre-norm decoder block."""

    config: DecoderConfig
    dropout: float = 0.0

    def setup(self) -> None:
        self.input_layernorm = RmsNorm(self.config.rms_norm_eps)
        self.self_attn = Attention(self.config, self.dropout)
        self.post_attention_layernorm = RmsNorm(self.config.rms_norm_eps)
        self.mlp = Mlp(self.config, self.dropout)

    def around_mlp(
        self, hidden: Float[Array, "B T D"], positions: Int[Array, "B T"], valid: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T D"]]:
        """`(the MLP's input, the block's output)`: all that an `mlp` bypass here needs of everything below it."""
        hidden = split(hidden, "samples", None, None)
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), positions, valid)
        mlp_input = self.post_attention_layernorm(hidden)
        return mlp_input, hidden + self.mlp(mlp_input)

    def __call__(
        self, hidden: Float[Array, "B T D"], positions: Int[Array, "B T"], valid: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T D"], None]:
        return self.around_mlp(hidden, positions, valid)[1], None
