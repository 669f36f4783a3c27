"""A data set on the device: frozen features, labels and masks."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, Cut, Features, frozen_features
from memlaw_jax.models.decoder import default_positions
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

    def pick(self, rows: Int[Array, " B"]) -> Batch:
        """The samples at `rows`; −1 gives an empty row."""
        taken = jax.tree.map(lambda leaf: leaf[rows], self)
        filled = (rows >= 0)[:, None]
        return taken.replace(rows=rows, train_mask=taken.train_mask & filled, answer_mask=taken.answer_mask & filled)

    def within(self, vocabulary: int) -> Batch:
        """The same samples, with the masks False where a label, such as −100, is no token of the vocabulary."""
        known = (self.labels >= 0) & (self.labels < vocabulary)
        return dataclasses.replace(self, train_mask=self.train_mask & known, answer_mask=self.answer_mask & known)


def prepare(base: Base, encoded: Encoded, cut: Cut) -> Batch:
    """All samples of a data set as one `Batch`: everything below the cut is computed here, once.

    Raises:
      UserError: a token that the model has no embedding for.
    """
    check_tokens(base, encoded.tokens)
    samples, width = encoded.tokens.shape
    rows = max(1, min(samples, FEATURE_TOKENS // width))
    parts = []
    for start in range(0, samples, rows):
        tokens = encoded.tokens[start : start + rows]
        short = rows - len(tokens)
        part = _features(base.config, cut, base.params, jnp.asarray(np.pad(tokens, ((0, short), (0, 0)))))
        parts.append(part)
    return Batch(
        rows=jnp.arange(samples, dtype=jnp.int32),
        features=jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:samples], *parts),
        answer_index=jnp.asarray(encoded.answer_index),
        labels=jnp.asarray(encoded.labels),
        train_mask=jnp.asarray(encoded.train_mask),
        answer_mask=jnp.asarray(encoded.answer_mask),
    )


def check_tokens(base: Base, tokens: Int[np.ndarray, "B T"]) -> None:
    """Refuses tokens that the model has no embedding for."""
    if tokens.max() >= base.config.vocab_size or tokens.min() < 0:
        outside = tokens.min() if tokens.min() < 0 else tokens.max()
        raise UserError(
            f"the tokenizer makes token {outside}, but the model's vocabulary ends at "
            f"{base.config.vocab_size - 1}; model and tokenizer do not belong together."
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(config: Any, cut: Cut, params: Any, tokens: Int[Array, "B T"]) -> Features:
    return frozen_features(config, params, cut, tokens, default_positions(tokens))
