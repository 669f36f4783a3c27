"""What training never changes, made once: the weights above the cut, and features of data sets (DESIGN.md, idea 3)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from memlaw_jax.models import Base, Cut, Features, LoraConfig, Upper
from memlaw_jax.models.base import DEVICE, HOST
from memlaw_jax.readout import features_of
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.buckets import rounded
from memlaw_jax.training.memory import free_memory
from memlaw_jax.training.placement import Placement


class Frozen:
    """One base cut for one kind of adapter, whatever its rank: every step, rank, method, seed and length shares it.

    Features are kept in the base's dtype, by the tokens that they are of. A data set whose samples are prefixes of
    those of another, as a shorter text or phone book is, takes the other's; under causal attention they are the same.

    Args:
      lora: what is adapted, and so where the model is cut.
      cached: False cuts below the first block instead, so that every step runs the whole model.
      room: bytes of features that stay on the device, the rest waits in the host's memory for its turn; None is half
        of what is free.
    """

    def __init__(
        self,
        base: Base,
        lora: LoraConfig,
        *,
        cached: bool = True,
        placement: Placement | None = None,
        room: int | None = None,
    ):
        where = Placement() if base.mesh is None else Placement(base.mesh)
        self.base, self.placement, self._cached = base, placement or where, cached
        self.cut = self._cut(lora)
        self._room = free_memory() // 2 if room is None else room
        self._sources: list[tuple[Encoded, Features]] = []

    @functools.cached_property
    def upper(self) -> Upper:
        """The weights above the cut, where training wants them."""
        return self.placement.upper(self.base, self.cut)

    def fits(self, base: Base, lora: LoraConfig) -> bool:
        """Whether it was made of this base, for adapters of this kind."""
        return base is self.base and self._cut(lora) == self.cut

    def learn(self, sets: Iterable[Encoded]) -> None:
        """Computes the features of all sets, of the largest first, which often serve the others.

        The weights above the cut come after them, so that they need not find room beside a feature pass.
        """
        for encoded in sorted(sets, key=lambda encoded: -encoded.tokens.size):
            self.source(encoded)
        _ = self.upper

    def source(self, encoded: Encoded) -> int:
        """A number that data sets share whose features are the same ones."""
        for index, (known, _) in enumerate(self._sources):
            if encoded.begins(known):
                return index
        samples, width = encoded.tokens.shape
        padded = encoded.fitted(samples, rounded(width), encoded.labels.shape[1])
        features = features_of(self.base, self.cut, padded.tokens)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(features))
        if size > self._room:
            features = _put(features, HOST)
        else:
            self._room -= size
        self._sources.append((encoded, features))
        return len(self._sources) - 1

    def features(self, source: int, samples: int, width: int) -> Features:
        """The first samples and tokens of a source, on every device; what it lacks is zeros."""
        _, features = self._sources[source]

        def fit(leaf: jax.Array) -> jax.Array:
            kept = leaf if leaf.shape[:2] == (samples, width) else leaf[:samples, :width]
            missing = (0, samples - kept.shape[0]), (0, width - kept.shape[1]), (0, 0)
            return jnp.pad(kept, missing) if any(map(any, missing)) else kept

        return self.placement.replicate(jax.tree.map(fit, _put(features, DEVICE)))

    def _cut(self, lora: LoraConfig) -> Cut:
        return (Cut.of if self._cached else Cut.nowhere)(self.base.config, lora)


def _put(tree: Any, memory: str) -> Any:
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding.with_memory_kind(memory)), tree)
