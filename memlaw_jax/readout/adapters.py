"""The adapters of one call: a single one, several at once, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from memlaw_jax.models import Adapter, Base, Cut, LoraConfig, scaled, spread, stack
from memlaw_jax.models.base import DTYPES
from memlaw_jax.models.lora import AdapterWeights

OneOrMany = Adapter | Sequence[Adapter] | None


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """N adapters of the same targets and layers, stacked; the base without one counts as one, with no weights.

    `lora` is the first one's settings: of the ranks and scales, those in `weights` and `scales` hold.
    """

    lora: LoraConfig | None
    layers: tuple[int, ...]
    weights: AdapterWeights = field(repr=False)
    scales: Float[Array, " N"]

    @classmethod
    def of(cls, base: Base, adapters: OneOrMany) -> Adapters:
        """Raises UserError: an adapter that does not fit the base, or adapters that differ in targets or layers."""
        if adapters is None:
            return cls(lora=None, layers=(), weights={}, scales=jnp.ones(1))
        several = [adapters] if isinstance(adapters, Adapter) else list(adapters)
        for adapter in several:
            adapter.check(base.config, base.fingerprint)
        weights, scales = stack(several)
        return cls(lora=several[0].lora, layers=several[0].layers, weights=weights, scales=scales)

    def cut(self, base: Base) -> Cut:
        """Where they allow the base to be cut."""
        return Cut.of(base.config, self.lora)

    def everywhere(self, base: Base) -> AdapterWeights:
        """Weights `[L, N, …]` over every block of the base, alpha folded in, in the base's dtype."""
        if not self.weights:
            return {}
        folded = jax.vmap(scaled)(self.weights, self.scales)
        placed = jax.vmap(lambda own: spread(own, self.layers, base.config.num_layers), out_axes=1)(folded)
        return jax.tree.map(lambda leaf: leaf.astype(DTYPES[base.dtype]), placed)
