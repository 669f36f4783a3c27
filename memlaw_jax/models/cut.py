"""The decoder cut at its first adapted module: frozen features from below, everything trainable above.

Nothing below the first adapter changes in training, so it is computed once (DESIGN.md, idea 3). For the paper's `mlp`
bypass the cut runs through the block: the features are the MLP's input and the block's output without the bypass.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.decoder import (
    Params,
    Remat,
    embed,
    final_norm,
    head_kernel,
    run_layers,
    take_layers,
)
from memlaw_jax.models.layers import Block, Dropout, low_rank
from memlaw_jax.models.lora import MLP, AdapterWeights, LoraConfig, take_adapted
from memlaw_jax.sharding import RULES, gather, gathered, split, weight_sharding, weight_shardings


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Consecutive blocks `start … stop − 1`, all adapted or none; adapted ones are `first …` in the adapter's stack."""

    start: int
    stop: int
    first: int | None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where the decoder is cut and what runs above: static, hashable, known to the compiler.

    Attributes:
      layer: the first adapted block.
      inside: whether the cut runs through that block, right before its MLP.
      segments: the blocks that run above the cut.
    """

    layer: int
    inside: bool
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, config: DecoderConfig, lora: LoraConfig | None) -> Cut:
        """The highest cut that an adapter of this kind allows; without one, above the last block."""
        if lora is None:
            return cls(layer=config.num_layers, inside=False, segments=())
        adapted = lora.adapted_layers(config)
        inside = lora.targets == (MLP,)
        return cls(layer=adapted[0], inside=inside, segments=_segments(config, adapted, adapted[0] + inside))

    @classmethod
    def nowhere(cls, config: DecoderConfig, lora: LoraConfig) -> Cut:
        """Below the first block: all that is frozen and could be computed once is computed again every step."""
        return cls(layer=0, inside=False, segments=_segments(config, lora.adapted_layers(config), 0))


def _segments(config: DecoderConfig, adapted: tuple[int, ...], start: int) -> tuple[Segment, ...]:
    """The blocks from `start` on."""
    segments = []
    for is_adapted, group in groupby(range(start, config.num_layers), key=lambda layer: layer in adapted):
        layers = list(group)
        first = adapted.index(layers[0]) if is_adapted else None
        segments.append(Segment(start=layers[0], stop=layers[-1] + 1, first=first))
    return tuple(segments)


@struct.dataclass
class Features:
    """What the part above the cut needs of the tokens; `mlp_input` only where the cut runs inside a block."""

    hidden: Float[Array, "B T D"]
    mlp_input: Float[Array, "B T D"] | None = None


@struct.dataclass
class Upper:
    """Frozen weights above the cut: one stack of blocks a segment, the last norm, the head's matrix `[D, V]`."""

    segments: tuple[Params, ...]
    norm: Params
    head: Float[Array, "D V"]


def upper_weights(config: DecoderConfig, params: Params, cut: Cut) -> Upper:
    """Takes the weights above the cut out of the whole model's. Call it outside jit: it copies the blocks it takes."""
    return Upper(
        segments=tuple(take_layers(params["layers"], segment.start, segment.stop) for segment in cut.segments),
        norm=params["norm"],
        head=head_kernel(config, params),
    )


def upper_shardings(mesh: Mesh, upper: Upper) -> Any:
    """Where the weights above the cut live in training (`memlaw_jax.sharding`), as another `Upper`."""
    head: Any = weight_sharding(mesh, ("lm_head", "kernel"), upper.head.shape, RULES)
    norm = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), upper.norm)
    return Upper(segments=weight_shardings(mesh, upper.segments), norm=norm, head=head)


def frozen_features(
    config: DecoderConfig,
    params: Params,
    cut: Cut,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    valid: Bool[Array, "B T"] | None = None,
) -> Features:
    """Runs the part below the cut."""
    hidden = gathered(embed(params, tokens), -1, config.hidden_size)
    if cut.layer:
        hidden = run_layers(config, take_layers(params["layers"], 0, cut.layer), hidden, positions, valid)
    if not cut.inside:
        return Features(hidden=hidden)
    block = gather(jax.tree.map(lambda leaf: leaf[cut.layer], params["layers"]), config.hidden_size)
    halves: Any = Block(config).apply({"params": block}, hidden, positions, valid, method="around_mlp")
    mlp_input, output = halves
    return Features(hidden=output, mlp_input=mlp_input)


def run_upper(
    config: DecoderConfig,
    upper: Upper,
    cut: Cut,
    features: Features,
    positions: Int[Array, "B T"],
    lora: AdapterWeights,
    valid: Bool[Array, "B T"] | None = None,
    dropout: Dropout | None = None,
    remat: Remat = "none",
) -> Float[Array, "B T D"]:
    """Runs the part above the cut with an adapter (alpha folded in): hidden states ready for the head."""
    features = jax.tree.map(lambda leaf: split(leaf, "samples", None, None), features)
    hidden = features.hidden
    if features.mlp_input is not None:
        added = low_rank(features.mlp_input, lora[MLP]["a"][0], lora[MLP]["b"][0])
        hidden = hidden + (added if dropout is None else dropout(added))
    for index, (segment, layers) in enumerate(zip(cut.segments, upper.segments, strict=True), start=1):
        adapter = None
        if segment.first is not None:
            adapter = take_adapted(lora, segment.first, segment.first + segment.stop - segment.start)
        own = None if dropout is None else dropout.apart(index)
        hidden = run_layers(config, layers, hidden, positions, valid, adapter, own, remat)
    return final_norm(config, upper.norm, hidden)
