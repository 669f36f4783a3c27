"""What adapters recall of a set of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from memlaw_jax.models import Adapter, Base, Cut, upper_weights
from memlaw_jax.readout.adapters import Adapters, OneOrMany
from memlaw_jax.readout.batch import prepare
from memlaw_jax.readout.metrics import RecallReport
from memlaw_jax.readout.verify import verify
from memlaw_jax.tasks import Encoded, Record, Sample, encode_records, make_records, pad

Records = Iterable[Record | Mapping[str, Any] | tuple[str, str]] | Iterable[Sample] | Encoded


@overload
def recall(base: Base, adapters: Adapter | None, records: Records) -> RecallReport: ...
@overload
def recall(base: Base, adapters: Sequence[Adapter], records: Records) -> list[RecallReport]: ...
def recall(base: Base, adapters: OneOrMany, records: Records) -> RecallReport | list[RecallReport]:
    """Per-token nats, arg-max right, exact match and first failure of records under adapters, without decoding.

    Args:
      adapters: one, several that share targets and layers (ranks may differ), or None for the base itself.

    Returns:
      A report; a list of them for a sequence of adapters.

    Raises:
      UserError: an adapter or a record that does not fit the base.
    """
    reports = verified(base, Adapters.of(base, adapters), encode(base, records))
    return reports if isinstance(adapters, Sequence) else reports[0]


def verified(base: Base, group: Adapters, encoded: Encoded) -> list[RecallReport]:
    """The reports of adapters that are known to fit."""
    cut = Cut.of(base.config, group.lora)
    upper, data = upper_weights(base.config, base.near(), cut), prepare(base, encoded, cut)
    return [
        RecallReport(nats=nats, right=right, mask=encoded.answer_mask, keys=encoded.keys)
        for nats, right in zip(*verify(base.config, cut, upper, data, group.weights, group.scales), strict=True)
    ]


def encode(base: Base, records: Records) -> Encoded:
    """Records as arrays, in the way this base's tokenizer wants them.

    Args:
      records: `Record`s, mappings with query and target, `(query, target)` pairs, or ready `Sample`s of token ids;
        arrays that are encoded already come back as they are.
    """
    if isinstance(records, Encoded):
        return records
    items: list[Any] = list(records)
    if not all(isinstance(item, Sample) for item in items):
        items = encode_records(base.tokenizer, make_records(items), max_length=base.config.max_positions)
    return pad(items, pad_id=base.pad_id)
