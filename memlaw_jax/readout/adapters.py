"""The adapters of one call: a single one, several at once, or none."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memlaw_jax.models import Adapter, Base, LoraConfig, scaled, spread, stack
from memlaw_jax.models.base import DTYPES
from memlaw_jax.models.lora import AdapterWeights

OneOrMany = Adapter | Sequence[Adapter] | None


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """N adapters of the same targets and layers, stacked; the base without one counts as one, with no weights.

    Their ranks are padded to the largest; `lora` is the first one's settings, which say what is adapted, and where.
    """

    lora: LoraConfig | None
    layers: tuple[int, ...]
    weights: AdapterWeights = field(repr=False)
    scales: Float[Array, " N"]

    @classmethod
    def of(cls, base: Base, adapters: OneOrMany) -> Adapters:
        """Checks and stacks them.

        Raises:
          UserError: an adapter that does not fit the base, or adapters that differ in targets or layers.
        """
        if adapters is None:
            return cls(lora=None, layers=(), weights={}, scales=jnp.ones(1))
        several = [adapters] if isinstance(adapters, Adapter) else list(adapters)
        for adapter in several:
            adapter.check(base.config, base.fingerprint)
        weights, scales = stack(several)
        return cls(lora=several[0].lora, layers=several[0].layers, weights=weights, scales=scales)

    def everywhere(self, base: Base) -> AdapterWeights:
        """Weights `[L, N, …]` over every block of the base, alpha folded in, in the base's dtype."""
        if not self.weights:
            return {}
        return _everywhere(self.weights, self.scales, self.layers, base.config.num_layers, base.dtype)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _everywhere(
    weights: AdapterWeights, scales: Float[Array, " N"], layers: tuple[int, ...], num_layers: int, dtype: str
) -> AdapterWeights:
    placed = jax.vmap(lambda own, scale: spread(scaled(own, scale), layers, num_layers), out_axes=1)(weights, scales)
    return jax.tree.map(lambda leaf: leaf.astype(DTYPES[dtype]), placed)
