"""Data sets on the device: frozen features, labels and masks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, Cut, DecoderConfig, Features, frozen_features
from memlaw_jax.models.decoder import default_positions
from memlaw_jax.sharding import AT_REST, over, weight_shardings
from memlaw_jax.tasks import Encoded

FEATURE_TOKENS = 16_384  # tokens of one feature pass, which bounds its activations


@struct.dataclass
class Batch:
    """Samples cut at the first adapter, with the answer's positions, labels and masks.

    `rows` says which sample of the data set each is; −1 is an empty row, whose masks are all False.
    """

    rows: Int[Array, " B"]
    features: Features
    answer_index: Int[Array, "B A"]
    labels: Int[Array, "B A"]
    train_mask: Bool[Array, "B A"]
    answer_mask: Bool[Array, "B A"]

    @property
    def positions(self) -> Int[Array, "B T"]:
        """Every sample starts at position 0 and is padded on the right."""
        return default_positions(self.features.hidden[..., 0])

    def within(self, vocabulary: int) -> Batch:
        """The same samples, with the masks False where a label, such as −100, is no token of the vocabulary."""
        known = (self.labels >= 0) & (self.labels < vocabulary)
        return dataclasses.replace(self, train_mask=self.train_mask & known, answer_mask=self.answer_mask & known)


@struct.dataclass
class DataSets:
    """M data sets whose samples are prefixes of the same ones, and which therefore share their features."""

    features: Features
    answer_index: Int[Array, "M S A"]
    labels: Int[Array, "M S A"]
    train_mask: Bool[Array, "M S A"]
    answer_mask: Bool[Array, "M S A"]

    @classmethod
    def of(cls, features: Features, sets: Sequence[Encoded]) -> DataSets:
        """The sets, all of the same shape `[S, T]`, `[S, A]`, over their features."""
        return cls(
            features=features,
            answer_index=jnp.asarray(np.stack([encoded.answer_index for encoded in sets])),
            labels=jnp.asarray(np.stack([encoded.labels for encoded in sets])),
            train_mask=jnp.asarray(np.stack([encoded.train_mask for encoded in sets])),
            answer_mask=jnp.asarray(np.stack([encoded.answer_mask for encoded in sets])),
        )

    def whole(self, index: Int[Array, ""]) -> Batch:
        """All samples of one set, over the features as they are."""
        rows = jnp.arange(self.features.hidden.shape[0], dtype=jnp.int32)
        return Batch(
            rows=rows,
            features=self.features,
            answer_index=self.answer_index[index],
            labels=self.labels[index],
            train_mask=self.train_mask[index],
            answer_mask=self.answer_mask[index],
        )

    def pick(self, index: Int[Array, ""], rows: Int[Array, " B"]) -> Batch:
        """The samples of one set at `rows`; −1 gives an empty row."""
        filled = (rows >= 0)[:, None]
        return Batch(
            rows=rows,
            features=jax.tree.map(lambda leaf: leaf[rows], self.features),
            answer_index=self.answer_index[index, rows],
            labels=self.labels[index, rows],
            train_mask=self.train_mask[index, rows] & filled,
            answer_mask=self.answer_mask[index, rows] & filled,
        )


def prepare(base: Base, encoded: Encoded, cut: Cut) -> DataSets:
    """One data set on the device: everything below the cut is computed here, once.

    Raises:
      UserError: a token that the model has no embedding for.
    """
    return DataSets.of(features_of(base, cut, encoded.tokens), [encoded])


def features_of(base: Base, cut: Cut, tokens: Int[np.ndarray, "S T"]) -> Features:
    """Runs right-padded rows through everything below the cut, in the base's dtype.

    Raises:
      UserError: a token that the model has no embedding for.
    """
    check_tokens(base, tokens)
    samples, width = tokens.shape
    rows, params = max(1, min(samples, FEATURE_TOKENS // width)), base.near()
    features: Any = None
    for start in range(0, samples, rows):
        first = min(start, samples - rows)  # the last pass repeats some rows rather than pad
        part = _features(base.config, cut, base.mesh, params, tokens[first : first + rows])
        if rows == samples:
            return part
        if features is None:
            features = jax.tree.map(
                lambda leaf: jnp.zeros((samples, *leaf.shape[1:]), leaf.dtype, device=leaf.sharding), part
            )
        features = _written(features, part, first)  # in place: a large data set has room for one copy only
    return features


@functools.partial(jax.jit, donate_argnums=0)
def _written(features: Features, part: Features, first: Int[Array, ""]) -> Features:
    return jax.tree.map(lambda all, own: jax.lax.dynamic_update_slice_in_dim(all, own, first, 0), features, part)


def check_tokens(base: Base, tokens: Int[np.ndarray, "B T"]) -> None:
    """Refuses tokens that the model has no embedding for."""
    if tokens.max() >= base.config.vocab_size or tokens.min() < 0:
        outside = tokens.min() if tokens.min() < 0 else tokens.max()
        raise UserError(
            f"the tokenizer makes token {outside}, but the model's vocabulary ends at "
            f"{base.config.vocab_size - 1}; model and tokenizer do not belong together."
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _features(config: DecoderConfig, cut: Cut, mesh: Mesh | None, params: Any, tokens: Int[Array, "B T"]) -> Features:
    """On a mesh every device computes all of them, from weights that are gathered block by block."""

    def run(params: Any, tokens: Int[Array, "B T"]) -> Features:
        return frozen_features(config, params, cut, tokens, default_positions(tokens))

    if mesh is None:
        return run(params, tokens)
    parts = weight_shardings(mesh, params, AT_REST)
    return over(mesh, run, (parts, PartitionSpec()), PartitionSpec(), AT_REST["width"])(params, tokens)
