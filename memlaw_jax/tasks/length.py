"""The length axis ℓ of tasks made of records: the first records that together reach so many answer tokens."""

from __future__ import annotations

from collections.abc import Iterable

from memlaw_jax.errors import UserError
from memlaw_jax.tasks.encoding import Encoder, Sample
from memlaw_jax.tasks.records import Record, shorten


def check_length(length: int | None) -> None:
    """Raises UserError unless the length is a count of tokens, or None for everything."""
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise UserError(f"length is {length!r}; give the number of answer tokens, 1 or more.")


def samples_up_to(encoder: Encoder, records: Iterable[Record], length: int | None, *, source: str) -> list[Sample]:
    """The first k samples, k as small as their answers' total of at least `length` tokens allows; None takes all.

    The total overshoots by less than the last answer: report `Encoded.answer_tokens`, not `length`.

    Raises:
      UserError: where the data is too short, or two different queries reach the model as the same tokens.
    """
    check_length(length)
    samples: list[Sample] = []
    by_prompt: dict[tuple[int, ...], Record] = {}
    total = 0
    for record in records:
        sample = encoder.sample(record)
        if (first := by_prompt.setdefault(sample.prompt, record)) is not record:
            raise UserError(
                f"{record.label}: its query reaches the model as the same tokens as {shorten(first.query)}"
                f"{f' ({first.where})' if first.where else ''}, so both targets cannot be recalled; make them differ."
            )
        samples.append(sample)
        total += len(sample.answer)
        if length is not None and total >= length:
            return samples
    if length is not None:
        raise UserError(
            f"length is {length} answer tokens, but {source} holds only {total} in {len(samples)} records; ask for "
            f"at most {total} or add records."
        )
    return samples
