"""How much of a step's activations the device can hold, reckoned before anything is compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp

from memlaw_jax.errors import UserError
from memlaw_jax.models import Cut, DecoderConfig
from memlaw_jax.models.decoder import Remat
from memlaw_jax.training.distributed import agree

SHARE = 0.7  # of what is free: the reckoning is rough, and the head, the batch and the optimiser want some too


def needed_remat(config: DecoderConfig, cut: Cut, dtype: str, tokens: int, free: float) -> Remat:
    """The least recomputation with which the backward pass of `tokens` (of all adapters of a device) should fit.

    See `models.decoder.Remat`; `free` is in bytes.
    """
    free = SHARE * free
    kinds: tuple[Remat, ...] = ("none", "dots", "blocks")
    return next((kind for kind in kinds if kept_bytes(config, cut, dtype, tokens, kind) <= free), "blocks")


def kept_bytes(config: DecoderConfig, cut: Cut, dtype: str, tokens: int, remat: Remat) -> int:
    """Bytes that the forward pass of all blocks above the cut keeps for the backward pass, about.

    Frozen products keep nothing of their own. What is kept are the inputs of what is not linear: both halves of the
    gated MLP and its product, queries, keys, values and the mixture, and normalised and float32 copies of the rest.
    """
    size, blocks = jnp.dtype(dtype).itemsize, sum(segment.stop - segment.start for segment in cut.segments)
    width, inner = config.hidden_size, config.intermediate_size
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    mixed = config.num_heads * config.head_dim
    everything = size * (6 * width + 4 * heads + 2 * mixed + 4 * inner) + 4 * (2 * width + heads)
    kept = {"none": everything, "dots": size * (3 * width + heads + mixed + 2 * inner), "blocks": size * width}[remat]
    # of a block that is computed again, everything lives for a moment
    return tokens * (blocks * kept + (everything if remat != "none" else 0))


def free_memory() -> int:
    """Bytes that the first device has free; half of the machine's memory where the device is its processor.

    What process 0 finds holds for all: they must decide alike.
    """
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return agree(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return agree(int(stats["bytes_limit"] - stats.get("bytes_in_use", 0)))


@contextmanager
def told_of_memory(lanes: int) -> Iterator[None]:
    """Turns a device's lack of memory into one sentence."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"the device has no memory for lanes {lanes}; use a smaller number.") from error
