"""From a record to token ids, and from many to arrays of one shape.

Prompt and answer are tokenised apart and joined as ids, never as text. A tokenizer that would merge across the border
therefore cannot blur the answer mask, and the model reads in training exactly the prompt that it reads at inference.
Where it would not merge, the ids are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Bool, Int32

from memlaw_jax.errors import UserError
from memlaw_jax.tasks.chat import DEFAULT_SYSTEM, has_chat_template, prompt_text, suffix_text
from memlaw_jax.tasks.records import Record, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BREAK = "\n"  # Merges with no word in sentencepiece, which is the reason why it is used.


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Token ids of one record: `answer` is trained and counted, `suffix` (the end of the turn) only trained."""

    key: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    suffix: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """S samples of T tokens with A slots for trained tokens each.

    The hidden state at position `answer_index[s, j]` predicts `labels[s, j]`, which stands one position later.
    Both are 0 in unused slots, where both masks are False.
    """

    tokens: Int32[np.ndarray, "S T"]
    lengths: Int32[np.ndarray, " S"]
    answer_index: Int32[np.ndarray, "S A"]
    labels: Int32[np.ndarray, "S A"]
    answer_mask: Bool[np.ndarray, "S A"]
    train_mask: Bool[np.ndarray, "S A"]
    keys: tuple[str, ...]

    @property
    def answer_tokens(self) -> int:
        """ℓ of the memory law: the counted answer tokens of all samples."""
        return int(self.answer_mask.sum())

    def begins(self, other: Encoded) -> bool:
        """Whether each sample is a prefix of the other's sample in the same row.

        What a causal model makes of the other's tokens then serves these too: padding is never looked at.
        """
        samples, width = self.tokens.shape
        if samples > len(other.tokens) or (self.lengths > other.lengths[:samples]).any():
            return False
        width = min(width, other.tokens.shape[1])
        real = np.arange(width) < self.lengths[:, None]
        return bool(((self.tokens[:, :width] == other.tokens[:samples, :width]) | ~real).all())

    def fitted(self, samples: int, width: int, slots: int) -> Encoded:
        """The same samples in arrays of `[samples, width]` and `[samples, slots]`: unused rows and slots, 0 and False.

        Raises:
          ValueError: a shape that is too small.
        """
        rows, real = len(self.tokens), int(self.lengths.max())

        def fit(leaf: np.ndarray, columns: int) -> np.ndarray:
            kept = leaf[:, :columns]
            return np.pad(kept, ((0, samples - rows), (0, columns - kept.shape[1])))

        if rows > samples or real > width or self.labels.shape[1] > slots:
            raise ValueError(f"{rows} samples of {real} tokens do not fit {samples} of {width}")
        return Encoded(
            tokens=fit(self.tokens, width),
            lengths=np.pad(self.lengths, (0, samples - rows)),
            answer_index=fit(self.answer_index, slots),
            labels=fit(self.labels, slots),
            answer_mask=fit(self.answer_mask, slots),
            train_mask=fit(self.train_mask, slots),
            keys=self.keys,
        )


class Encoder:
    """Turns records into samples the way one tokenizer wants them.

    With a chat template the suffix is what the template writes after the assistant's words; without one the prompt is
    the query unchanged, after the beginning-of-text token if this tokenizer adds one, and the suffix is its
    end-of-text token if it has one.

    Args:
      system: the system message of a chat, or None for none. Plain prompts have no place for one.
      max_length: the most tokens that the model takes, or None for no limit.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system: str | None = DEFAULT_SYSTEM,
        max_length: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._system = system
        self._chat = has_chat_template(tokenizer)
        self._special = special_ids(tokenizer)
        self._bos: tuple[int, ...] = ()
        start = self._ids(_BREAK)
        # Empty unless the tokenizer writes something, sentencepiece's space, before the first word of a text.
        self._start = start if self._ids(_BREAK + "a") != start + self._ids("a") else ()
        if self._chat:
            self.suffix = self._inner_ids(suffix_text(tokenizer, system))
            return
        if system not in (None, DEFAULT_SYSTEM):
            raise UserError(
                f"system is {shorten(system)}, but this tokenizer has no chat template to put it in; remove it."
            )
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        if bos is not None and tokenizer("a").input_ids[:1] == [bos]:
            self._bos = (bos,)
        self.suffix = () if eos is None else (eos,)

    def prompt(self, query: str) -> tuple[int, ...]:
        """Ids of everything before the answer. Special tokens written in the query count as such, as in inference."""
        if self._chat:
            return self._ids(prompt_text(self.tokenizer, query, self._system))
        return self._bos + self._ids(query)

    def text(self, text: str, label: str) -> tuple[int, ...]:
        """Ids of a text in which nothing counts as a special token; `label` names it in errors."""
        ids = self._inner_ids(text, split_special_tokens=True)
        if not ids:
            raise UserError(f"{label}: the text {shorten(text)} becomes no token at all; give it other text.")
        if self.tokenizer.unk_token_id in ids:
            raise UserError(f"{label}: the text {shorten(text)} has characters that the tokenizer lacks; remove them.")
        if special := self._special.intersection(ids):
            token = self.tokenizer.convert_ids_to_tokens(min(special))
            raise UserError(
                f"{label}: the tokenizer can read {token} in the text {shorten(text)} only as a special token, "
                "which is nothing to remember; remove it."
            )
        return ids

    def answer(self, target: str, label: str) -> tuple[int, ...]:
        """Ids of a target, which must come back verbatim when they are decoded."""
        ids = self.text(target, label)
        back = self._decode(self._start + ids).removeprefix(self._decode(self._start))
        # A tokenizer that writes a space even after a line break takes it away again; that alone is no change.
        space = " " if self._start else ""
        if back.removeprefix(space) != target.removeprefix(space):
            raise UserError(
                f"{label}: the tokenizer turns the target {shorten(target)} into {shorten(back)}, so it cannot be "
                "recalled verbatim; write it in that form."
            )
        return ids

    def sample(self, record: Record) -> Sample:
        """One record's ids; a UserError names the record if it does not fit the model."""
        prompt, answer = self.prompt(record.query), self.answer(record.target, record.label)
        if not prompt:
            raise UserError(f"{record.label}: the query {shorten(record.query)} becomes no token at all; change it.")
        total = len(prompt) + len(answer) + len(self.suffix)
        if self.max_length is not None and total > self.max_length:
            raise UserError(
                f"{record.label}: {total} tokens (prompt {len(prompt)}, target {len(answer)}, end "
                f"{len(self.suffix)}) are more than the model's {self.max_length}; shorten it or split it in two."
            )
        return Sample(key=record.key, prompt=prompt, answer=answer, suffix=self.suffix)

    def _ids(self, text: str, **options: bool) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False, **options).input_ids)

    def _inner_ids(self, text: str, **options: bool) -> tuple[int, ...]:
        """Ids of a text that follows another one, so without the space that sentencepiece writes before a first word.

        That space is one more token where the text begins with a digit, and ℓ would count it with the answer.
        """
        count = len(self._start)
        if count and (ids := self._ids(_BREAK + text, **options))[:count] == self._start:
            return ids[count:]
        return self._ids(text, **options)

    def _decode(self, ids: tuple[int, ...]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return cast(str, text)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, query: str, *, system: str | None = DEFAULT_SYSTEM
) -> tuple[int, ...]:
    """The prompt's ids for one query, equal to the `prompt` of its sample."""
    return Encoder(tokenizer, system=system).prompt(query)


def encode_records(
    tokenizer: PreTrainedTokenizerBase,
    records: Iterable[Record],
    *,
    system: str | None = DEFAULT_SYSTEM,
    max_length: int | None = None,
) -> list[Sample]:
    """Samples of all records, in their order."""
    encoder = Encoder(tokenizer, system=system, max_length=max_length)
    return [encoder.sample(record) for record in records]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of control tokens, named ones (bos, eos, …) and those only marked special."""
    marked = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(tokenizer.all_special_ids).union(marked)


def pad(samples: Sequence[Sample], *, pad_id: int, multiple: int = 8) -> Encoded:
    """Right-pads samples to one shape; T is rounded up to `multiple`, so that nearby data sets share a shape."""
    if not samples:
        raise UserError("There are no samples to encode; give at least one record.")
    if multiple < 1:
        raise UserError(f"multiple is {multiple}; it must be 1 or more.")
    longest = max(len(sample.prompt) + len(sample.answer) + len(sample.suffix) for sample in samples)
    count, width = len(samples), -(-longest // multiple) * multiple
    slots = max(len(sample.answer) + len(sample.suffix) for sample in samples)
    tokens = np.full((count, width), pad_id, np.int32)
    lengths = np.zeros(count, np.int32)
    answer_index, labels = np.zeros((count, slots), np.int32), np.zeros((count, slots), np.int32)
    answer_mask, train_mask = np.zeros((count, slots), np.bool_), np.zeros((count, slots), np.bool_)
    for row, sample in enumerate(samples):
        if not sample.prompt:
            raise UserError(f"Sample {shorten(sample.key)} has an empty prompt; nothing could predict its first token.")
        start, trained = len(sample.prompt), sample.answer + sample.suffix
        lengths[row] = start + len(trained)
        tokens[row, : lengths[row]] = sample.prompt + trained
        answer_index[row, : len(trained)] = np.arange(start - 1, start - 1 + len(trained))
        labels[row, : len(trained)] = trained
        answer_mask[row, : len(sample.answer)] = True
        train_mask[row, : len(trained)] = True
    return Encoded(
        tokens=tokens,
        lengths=lengths,
        answer_index=answer_index,
        labels=labels,
        answer_mask=answer_mask,
        train_mask=train_mask,
        keys=tuple(sample.key for sample in samples),
    )
