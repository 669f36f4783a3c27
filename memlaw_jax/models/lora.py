"""LoRA as a tree of its own: which modules it touches, how it starts, and how its rank is padded.

An adapter's weights mirror the decoder's Linen paths, stacked over the adapted layers (n of them):
`{"mlp": {"a": [n, D, R], "b": [n, R, D]}, "self_attn": {"q_proj": {"a": …, "b": …}}, …}`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.settings import Count, settings

AdapterWeights = dict[str, Any]

MLP = "mlp"
PATHS: dict[str, tuple[str, ...]] = {
    MLP: ("mlp",),
    "q_proj": ("self_attn", "q_proj"),
    "k_proj": ("self_attn", "k_proj"),
    "v_proj": ("self_attn", "v_proj"),
    "o_proj": ("self_attn", "o_proj"),
    "gate_proj": ("mlp", "gate_proj"),
    "up_proj": ("mlp", "up_proj"),
    "down_proj": ("mlp", "down_proj"),
}
PEFT_ALPHA = 8.0  # PEFT's default `lora_alpha`


@settings
class LoraConfig:
    """One adapter.

    Attributes:
      rank: r, the inner width of A·B.
      targets: `mlp` (the paper's bypass of a whole MLP block) and linear layers by their Hugging Face names.
      layers: adapted blocks, zero-based; None is the paper's depth for `mlp`, every block for linear layers.
      alpha: the bypass is multiplied by alpha/r (`paper`, `peft`) or alpha/√r (`rslora`). None: no scaling for
        `paper`, PEFT's default of 8 for the others.
      init: distribution of A; B always starts at zero. `paper`: U(±1/√r), as the release draws it (PAPER.md,
        section 2); `peft` and `rslora`: U(±1/√d_in), as PEFT does.
      dropout: share of the bypass's outputs that training sets to zero, the others growing by 1/(1 − dropout), as the
        release does. (PEFT's dropout is on the input.)
    """

    label: ClassVar[str] = "lora"

    rank: Count = 8
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (MLP,)
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    init: Literal["paper", "peft", "rslora"] = "paper"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        unknown = [target for target in self.targets if target not in PATHS]
        if unknown:
            raise UserError(f"lora target {unknown[0]!r} is unknown; allowed are {', '.join(PATHS)}.")
        if len(set(self.targets)) < len(self.targets):
            raise UserError(f"lora targets {', '.join(self.targets)} name one module twice.")

    @property
    def scale(self) -> float:
        """What x·A·B is multiplied by."""
        if self.alpha is None and self.init == "paper":
            return 1.0
        alpha = PEFT_ALPHA if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.init == "rslora" else self.rank)

    def adapted_layers(self, config: DecoderConfig) -> tuple[int, ...]:
        """The adapted blocks in a given decoder, ascending.

        Raises:
          UserError: a layer that the decoder lacks, or no layers for a mixture of `mlp` and linear targets.
        """
        if self.layers is not None:
            outside = [layer for layer in self.layers if layer >= config.num_layers]
            if outside or not self.layers:
                raise UserError(
                    f"lora layers are {list(self.layers)}, but the model's layers are 0 to {config.num_layers - 1}."
                )
            return tuple(sorted(set(self.layers)))
        if self.targets == (MLP,):
            return (config.paper_layer,)
        if MLP in self.targets:
            raise UserError("lora targets mix mlp and linear layers, whose usual depths differ; set `layers`.")
        return tuple(range(config.num_layers))

    def check(self, config: DecoderConfig) -> None:
        """Refuses a rank above the width of a target, beyond which A·B gains nothing."""
        for target in self.targets:
            widest = min(config.linear_shape(target))
            if self.rank > widest:
                raise UserError(
                    f"lora rank is {self.rank}, but {target} of this model is only {widest} wide; use at most {widest}."
                )
        self.adapted_layers(config)

    def effective_parameters(self, config: DecoderConfig) -> int:
        """Trainable numbers: r·(d_in + d_out) of every target in every adapted layer (the paper's 8192·r)."""
        per_layer = sum(sum(config.linear_shape(target)) for target in self.targets)
        return self.rank * per_layer * len(self.adapted_layers(config))


def init_adapter(
    config: DecoderConfig, lora: LoraConfig, key: PRNGKeyArray, *, padded_rank: int | None = None
) -> AdapterWeights:
    """Fresh float32 weights: A random, B zero, so that no logit changes; padded with zeros to `padded_rank`."""
    lora.check(config)
    layers = len(lora.adapted_layers(config))
    weights: AdapterWeights = {}
    for index, (target, path) in enumerate(PATHS.items()):
        if target not in lora.targets:
            continue
        d_in, d_out = config.linear_shape(target)
        bound = 1 / math.sqrt(lora.rank if lora.init == "paper" else d_in)
        a = jax.random.uniform(
            jax.random.fold_in(key, index), (layers, d_in, lora.rank), jnp.float32, minval=-bound, maxval=bound
        )
        module = weights
        for name in path:
            module = module.setdefault(name, {})
        module["a"], module["b"] = a, jnp.zeros((layers, lora.rank, d_out), jnp.float32)
    return weights if padded_rank is None else pad_rank(weights, padded_rank)


def scaled(weights: AdapterWeights, scale: Float[Array, ""] | float) -> AdapterWeights:
    """The adapter with its alpha folded into B, as the decoder's modules want it."""
    return jax.tree.map_with_path(lambda path, leaf: leaf * scale if path[-1].key == "b" else leaf, weights)


def pad_rank(weights: AdapterWeights, rank: int) -> AdapterWeights:
    """Zero columns of A and zero rows of B up to `rank`.

    They stay zero in training: ∂L/∂A = xᵀ(g·Bᵀ) is zero in columns where B's rows are, ∂L/∂B = (x·A)ᵀg in rows where
    A's columns are.
    """

    def pad(path: Any, leaf: Array) -> Array:
        axis = -1 if path[-1].key == "a" else -2
        if leaf.shape[axis] > rank:
            raise UserError(f"an adapter of rank {leaf.shape[axis]} cannot be padded to {rank}.")
        widths = [(0, 0)] * leaf.ndim
        widths[axis] = (0, rank - leaf.shape[axis])
        return jnp.pad(leaf, widths)

    return jax.tree.map_with_path(pad, weights)


def trim_rank(weights: AdapterWeights, rank: int) -> AdapterWeights:
    """The inverse of `pad_rank`."""
    return jax.tree.map_with_path(
        lambda path, leaf: leaf[..., :rank] if path[-1].key == "a" else leaf[..., :rank, :], weights
    )


def take_adapted(weights: AdapterWeights, start: int, stop: int) -> AdapterWeights:
    """The weights of the `start`-th to the `stop − 1`-th adapted layer."""
    return jax.tree.map(lambda leaf: leaf[start:stop], weights)


def spread(weights: AdapterWeights, layers: tuple[int, ...], num_layers: int) -> AdapterWeights:
    """An adapter of these layers over every block of the decoder, with zeros, which change nothing, in the others.

    It goes with the frozen stack as it is; taking the adapted blocks out would copy them.
    """

    def place(leaf: Array) -> Array:
        return jnp.zeros((num_layers, *leaf.shape[1:]), leaf.dtype).at[jnp.array(layers)].set(leaf)

    return jax.tree.map(place, weights)
