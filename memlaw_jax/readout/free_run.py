"""Free-running recall: what an adapter says when nobody puts it right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from memlaw_jax.models import Adapter, Base
from memlaw_jax.readout.adapters import Adapters, OneOrMany
from memlaw_jax.readout.decode import continue_texts
from memlaw_jax.readout.metrics import FreeRun
from memlaw_jax.readout.recall import Records, encode, verified
from memlaw_jax.readout.sampling import Sampling


@overload
def free_run(base: Base, adapters: Adapter | None, records: Records, sampling: Sampling | None = None) -> FreeRun: ...
@overload
def free_run(
    base: Base, adapters: Sequence[Adapter], records: Records, sampling: Sampling | None = None
) -> list[FreeRun]: ...
def free_run(
    base: Base, adapters: OneOrMany, records: Records, sampling: Sampling | None = None
) -> FreeRun | list[FreeRun]:
    """Decodes the answers of records from their prompts and compares them with the true ones, position by position.

    Greedy decoding starts where teacher-forced verification first fails, since it says the true tokens until there
    (DESIGN.md, idea 9); samples that are recalled whole are not decoded. An answer is decoded to its true length, past
    any end token.

    Args:
      adapters, records: as in `recall`.
      sampling: how to draw; None is greedy.

    Returns:
      What was decoded; a list for a sequence of adapters.

    Raises:
      UserError: an adapter or a record that does not fit the base.
    """
    encoded, group = encode(base, records), Adapters.of(base, adapters)
    lengths = encoded.answer_mask.sum(axis=1)
    known = np.zeros((len(group.scales), len(lengths)), np.int64)
    if sampling is None:
        failures = np.stack([report.first_failures for report in verified(base, group, encoded)])
        known = np.where(failures < 0, lengths, failures)
    starts = encoded.answer_index[:, 0] + 1 + known
    texts = continue_texts(base, group, encoded.tokens, starts, lengths - known, sampling)
    runs = []
    for text in texts:
        ids = np.take_along_axis(text, encoded.answer_index + 1, axis=1)
        right, mask = ids == encoded.labels, encoded.answer_mask
        runs.append(FreeRun(ids=np.where(mask, ids, 0), right=right & mask, mask=mask, keys=encoded.keys))
    return runs if isinstance(adapters, Sequence) else runs[0]
