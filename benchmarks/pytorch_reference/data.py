"""From records, or a long random sequence, to token ids: prompt and answer apart, rows padded on the right."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

SYSTEM = "You are a helpful assistant."
QUERY = "Please output the content of the vector memory injected into the activations."
FIELDS = (("query", "target"), ("prompt", "completion"), ("question", "answer"))
DAY = "26 Jul 2024"  # some Llama templates print today's date, which would change the prompt overnight


class Mistake(Exception):
    """A user's mistake, in one sentence."""


class Sample(NamedTuple):
    """Token ids of one record; the suffix, which ends the turn, is trained but not counted."""

    prompt: list[int]
    answer: list[int]
    suffix: list[int]


class Data(Protocol):
    """S samples of T tokens with A slots for trained tokens each (memlaw_jax's `Encoded` has this form too).

    The hidden state at `answer_index[s, j]` predicts `labels[s, j]`; both are 0 in slots where both masks are False.
    """

    tokens: np.ndarray  # [S, T]
    lengths: np.ndarray  # [S]
    answer_index: np.ndarray  # [S, A]
    labels: np.ndarray  # [S, A]
    answer_mask: np.ndarray  # [S, A], counted
    train_mask: np.ndarray  # [S, A], trained


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """`Data` as `pad` makes it."""

    tokens: np.ndarray
    lengths: np.ndarray
    answer_index: np.ndarray
    labels: np.ndarray
    answer_mask: np.ndarray
    train_mask: np.ndarray


class Encoder:
    """Prompts, answers and the suffix as one tokenizer's ids: through its chat template where it has one."""

    def __init__(self, tokenizer: Any, system: str | None = SYSTEM):
        self.tokenizer, self.system = tokenizer, system
        self.chat = bool(getattr(tokenizer, "chat_template", None))
        starts = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        self.begin = [tokenizer.bos_token_id] if starts and not self.chat else []
        if self.chat:
            spoken = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "The answer stands here."}]
            self.suffix = self.ids(self._render(spoken, False).rpartition("The answer stands here.")[2])
        else:
            self.suffix = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def prompt(self, query: str) -> list[int]:
        """Everything before the answer."""
        if self.chat:
            return self.ids(self._render([{"role": "user", "content": query}], True))
        return self.begin + self.ids(query)

    def ids(self, text: str, **options: bool) -> list[int]:
        """Ids of a text alone."""
        return list(self.tokenizer(text, add_special_tokens=False, **options).input_ids)

    def _render(self, messages: list[dict[str, str]], generate: bool) -> str:
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return self.tokenizer.apply_chat_template(
            first + messages, tokenize=False, add_generation_prompt=generate, enable_thinking=False, date_string=DAY
        )


def read_records(path: Path) -> list[tuple[str, str]]:
    """`(query, target)` of every line of a JSON Lines file."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} cannot be read ({error}); give a JSON Lines file of records.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            query, target = next((value[q], value[t]) for q, t in FIELDS if q in value and t in value)
        except (ValueError, TypeError, StopIteration):
            raise Mistake(f'{path}, line {number} is no {{"query": …, "target": …}}; mend or remove it.') from None
        if not (isinstance(query, str) and isinstance(target, str) and query.strip() and target.strip()):
            raise Mistake(f"{path}, line {number} has a query or target that is empty or no text; mend it.")
        records.append((query, target))
    if not records:
        raise Mistake(f"{path} holds no records.")
    return records


def record_samples(encoder: Encoder, records: list[tuple[str, str]], length: int | None) -> list[Sample]:
    """The first records whose answers together reach `length` tokens; None takes all."""
    samples, total = [], 0
    for query, target in records:
        answer = encoder.ids(target, split_special_tokens=True)
        samples.append(Sample(encoder.prompt(query), answer, encoder.suffix))
        total += len(answer)
        if length is not None and total >= length:
            return samples
    if length is not None:
        raise Mistake(f"--length is {length} answer tokens, but the data hold {total}; ask for at most {total}.")
    return samples


def random_sample(encoder: Encoder, tokens: int, seed: int) -> list[Sample]:
    """One sequence of random ordinary tokens (the paper's r100); the same token at a place, however many are drawn.

    No suffix, so that a shorter sequence is a prefix of a longer one.
    """
    tokenizer = encoder.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
    stream = random.Random(f"long context {seed}")
    return [Sample(encoder.prompt(QUERY), [ordinary[int(stream.random() * len(ordinary))] for _ in range(tokens)], [])]


def pad(samples: Sequence[Sample], pad_id: int) -> Arrays:
    """Samples as arrays of one shape."""
    width = max(len(prompt) + len(answer) + len(suffix) for prompt, answer, suffix in samples)
    slots = max(len(answer) + len(suffix) for _, answer, suffix in samples)
    tokens, lengths = np.full((len(samples), width), pad_id), np.zeros(len(samples), int)
    index, labels = np.zeros((2, len(samples), slots), int)
    counted, trained = np.zeros((2, len(samples), slots), bool)
    for row, (prompt, answer, suffix) in enumerate(samples):
        spoken, start = answer + suffix, len(prompt)
        lengths[row] = start + len(spoken)
        tokens[row, : lengths[row]] = prompt + spoken
        index[row, : len(spoken)] = np.arange(start - 1, lengths[row] - 1)
        labels[row, : len(spoken)] = spoken
        counted[row, : len(answer)] = trained[row, : len(spoken)] = True
    return Arrays(
        tokens=tokens, lengths=lengths, answer_index=index, labels=labels, answer_mask=counted, train_mask=trained
    )


def collate(
    data: Data, rows: np.ndarray, device: torch.device, untrained: int = -100
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch in the form that Hugging Face trainers use, all `[B, T]`, as wide as its longest sample.

    Returns tokens, attention mask, labels (`untrained` where nothing is to be predicted), and the counted places.
    """
    lengths = np.asarray(data.lengths)[rows]
    width = int(lengths.max())
    tokens = np.asarray(data.tokens)[rows, :width]
    labels, counted = np.full(tokens.shape, untrained), np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        trained, answer = data.train_mask[row], data.answer_mask[row]
        labels[i, data.answer_index[row][trained] + 1] = data.labels[row][trained]
        counted[i, data.answer_index[row][answer] + 1] = True
    attention = np.arange(width) < lengths[:, None]
    whole = (torch.tensor(x, dtype=torch.long, device=device) for x in (tokens, attention, labels))
    return (*whole, torch.tensor(counted, device=device))
