"""Rotary position embeddings, with Llama 3's frequency scaling.

Su et al. 2021 (RoFormer), in the half-split layout of the Hugging Face checkpoints: feature i is paired with
feature i + head_dim/2. Scaling as in Llama 3.1's model card and transformers' `llama3` rope type.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from memlaw_jax.models.config import DecoderConfig


def inverse_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians per position of each feature pair, float32 `[head_dim / 2]`."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    plain = (1.0 / config.rope_theta**exponents).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return (plain / scaling.factor).astype(np.float32)
    # Llama 3: long wavelengths are stretched by `factor`, short ones kept, those between blended.
    wavelength = 2 * math.pi / plain
    turns = scaling.original_max_positions / wavelength
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return ((1 - blend) * plain / scaling.factor + blend * plain).astype(np.float32)


def rotate(x: Float[Array, "B T H d"], positions: Int[Array, "B T"], config: DecoderConfig) -> Float[Array, "B T H d"]:
    """Rotates each head's feature pairs by its token's position; computed in float32, returned in x's dtype."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config)
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
