"""What an adapter recalls of a set of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from memlaw_jax.models import Adapter, Base, Cut, upper_weights
from memlaw_jax.readout.batch import prepare
from memlaw_jax.readout.metrics import RecallReport
from memlaw_jax.readout.verify import verify
from memlaw_jax.tasks import Encoded, Record, Sample, encode_records, make_records, pad

Records = Iterable[Record | Mapping[str, Any] | tuple[str, str]] | Iterable[Sample]


def recall(base: Base, adapter: Adapter, records: Records) -> RecallReport:
    """Per-token nats, arg-max right, exact match and first failure of records under an adapter, without decoding."""
    adapter.check(base.config, base.fingerprint)
    encoded, cut = encode(base, records), Cut.of(base.config, adapter.lora)
    weights = jax.tree.map(lambda leaf: leaf[None], adapter.weights)
    scales = jnp.full((1,), adapter.lora.scale, jnp.float32)
    upper, data = upper_weights(base.config, base.params, cut), prepare(base, encoded, cut)
    nats, right = verify(base.config, cut, upper, data, weights, scales)
    return RecallReport(nats=nats[0], right=right[0], mask=encoded.answer_mask, keys=encoded.keys)


def encode(base: Base, records: Records) -> Encoded:
    """Records as arrays, in the way this base's tokenizer wants them.

    Args:
      records: `Record`s, mappings with query and target, `(query, target)` pairs, or ready `Sample`s of token ids.
    """
    items: list[Any] = list(records)
    if not all(isinstance(item, Sample) for item in items):
        items = encode_records(base.tokenizer, make_records(items), max_length=base.config.max_positions)
    return pad(items, pad_id=base.pad_id)
