"""A phone book in the right shape where the model's tokenizer is not here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from memlaw_jax.tasks import PhoneBook, Sample, Task
from memlaw_jax.training.sweep_config import SweepConfig


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Tokens of a sample of the book: its prompt, the longest in the book, a number, and what ends the turn."""

    prompt: int
    number: int
    suffix: int


# Reckoned from the chat templates and from the release's tokens a number (PAPER.md, section 3).
SHAPES = {
    "Qwen/Qwen3-8B": Shape(prompt=34, number=10, suffix=2),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(prompt=48, number=4, suffix=1),
}


@dataclass(frozen=True, kw_only=True)
class ShapedBook:
    """A phone book whose samples have the right numbers of tokens, and no meaning."""

    shape: Shape
    records: int | None

    name: ClassVar[str] = PhoneBook.name

    def fingerprint(self, tokenizer: Any) -> str:
        """Of the shape."""
        return repr(self)

    def samples(self, tokenizer: Any, length: int | None, *, max_length: int | None = None) -> list[Sample]:
        """As many as reach `length` answer tokens; without a length, all."""
        count = (self.records or 0) if length is None else -(-length // self.shape.number)
        tokens = {"prompt": self.shape.prompt, "answer": self.shape.number, "suffix": self.shape.suffix}
        return [Sample(key=str(i), **{name: (0,) * size for name, size in tokens.items()}) for i in range(count)]


def shaped(config: SweepConfig) -> SweepConfig:
    """The config with such a book in place of a generated one, where the model's shape of it is known."""
    task: Task = config.made_task()
    if config.model not in SHAPES or not isinstance(task, PhoneBook) or task.path is not None:
        return config
    return dataclasses.replace(config, task=ShapedBook(shape=SHAPES[config.model], records=task.records))
