"""Linear rule: values of f(x, y) = ax + by + c to remember, and unseen ones to infer (paper, Table 3)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.settings import Count, Seed, settings
from memlaw_jax.tasks.chat import DEFAULT_SYSTEM
from memlaw_jax.tasks.encoding import Encoder, Sample
from memlaw_jax.tasks.fingerprint import records_fingerprint
from memlaw_jax.tasks.length import samples_up_to
from memlaw_jax.tasks.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[int, int]


@settings
class LinearRule:
    """Records "f(12, 7) =" → "78" with x and y uniform over 0 … `largest`, no ordered pair twice.

    The held-out pairs never occur in training, at whatever length. The training pairs do not depend on how many are
    held out, and fewer pairs are a prefix of more. The answer has no space before it, which every answer would share
    and ℓ would count.

    Attributes:
      a, b, c: coefficients of the rule.
      pairs: how many pairs there are to train on.
      heldout: how many further pairs measure generalisation; 0 for none.
      largest: the largest x and y. Of the default's 10,000 pairs 500 are 5 %, and values have at most three digits.
      seed: of the pairs.
      system: the system message of chat models; None for none.
    """

    a: int = 3
    b: int = 5
    c: int = 7
    pairs: Count = 500
    heldout: Annotated[int, Field(ge=0)] = 200
    largest: Annotated[int, Field(ge=0)] = 99
    seed: Seed = 0
    system: str | None = DEFAULT_SYSTEM

    name: ClassVar[str] = "linear_rule"
    label: ClassVar[str] = "Task linear_rule"

    def __post_init__(self) -> None:
        exist = (self.largest + 1) ** 2
        if self.pairs + self.heldout > exist:
            raise UserError(
                f"Task linear_rule: pairs is {self.pairs} and heldout is {self.heldout}, together "
                f"{self.pairs + self.heldout}, but with largest {self.largest} there are only {exist} pairs; lower one "
                "or raise largest."
            )

    @cached_property
    def _records(self) -> tuple[list[Record], list[Record]]:
        """Training and held-out records."""
        taken: set[Pair] = set()
        streams = ((f"linear rule {self.seed}", self.pairs), (f"linear rule held out {self.seed}", self.heldout))
        training, heldout = (
            [self._record(x, y) for x, y in islice(_new_pairs(stream, self.largest, taken), count)]
            for stream, count in streams
        )
        return training, heldout

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash of the training and held-out texts and of their encoding."""
        training, heldout = self._records
        content = [[(record.query, record.target) for record in part] for part in (training, heldout)]
        return records_fingerprint(Encoder(tokenizer, system=self.system), content, training)

    def samples(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, *, max_length: int | None = None
    ) -> list[Sample]:
        """The first training pairs that reach `length` answer tokens, or all; see `length.samples_up_to`."""
        encoder = Encoder(tokenizer, system=self.system, max_length=max_length)
        return samples_up_to(encoder, self._records[0], length, source="the linear rule")

    def heldout_samples(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None) -> list[Sample]:
        """The pairs that occur in no training set of this task."""
        encoder = Encoder(tokenizer, system=self.system, max_length=max_length)
        return samples_up_to(encoder, self._records[1], None, source="the linear rule")

    def _record(self, x: int, y: int) -> Record:
        query = f"f({x}, {y}) ="
        return Record(key=query, query=query, target=str(self.a * x + self.b * y + self.c))


def _new_pairs(stream: str, largest: int, taken: set[Pair]) -> Iterator[Pair]:
    """Uniform draws of the pairs that are not taken yet; each is then taken."""
    # Python promises the stream of random() for ever, of nothing else.
    uniform = random.Random(stream).random
    while True:
        pair = (int(uniform() * (largest + 1)), int(uniform() * (largest + 1)))
        if pair not in taken:
            taken.add(pair)
            yield pair
