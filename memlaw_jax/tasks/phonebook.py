"""PhoneBook: names that must be answered with their ten digits (paper, section 3; the release's file form)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from memlaw_jax.errors import UserError
from memlaw_jax.settings import Count, PathText, Seed, settings
from memlaw_jax.tasks.chat import DEFAULT_SYSTEM
from memlaw_jax.tasks.encoding import Encoder, Sample
from memlaw_jax.tasks.fingerprint import digest, records_fingerprint
from memlaw_jax.tasks.length import check_length, samples_up_to
from memlaw_jax.tasks.names import FIRST_NAMES, LAST_NAMES
from memlaw_jax.tasks.records import Record, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_RECORDS = len(FIRST_NAMES) * len(LAST_NAMES)
_LOWEST, _NUMBERS = 6_000_000_000, 4_000_000_000


def generate_phonebook(records: int, seed: int) -> list[Record]:
    """Records "Jerry Becerra:" → "9100672710": names and numbers unique, first digit 6 to 9.

    A shorter book is a prefix of a longer one of the same seed, on every machine and version.
    """
    if not 1 <= records <= MAX_RECORDS:
        raise UserError(f"records is {records}; the phone book has names for 1 to {MAX_RECORDS}.")
    return list(islice(_entries(seed), records))


@settings
class PhoneBook:
    """A generated phone book, or the release's file of one.

    Attributes:
      path: a JSON Lines file; None generates the book.
      records: how many records there are; None means the whole file, or as many generated ones as a length needs.
      seed: of the generated book.
      system: the system message of chat models; None for none.
    """

    path: PathText | None = None
    records: Count | None = None
    seed: Seed = 0
    system: str | None = DEFAULT_SYSTEM

    name: ClassVar[str] = "phonebook"
    label: ClassVar[str] = "Task phonebook"

    def __post_init__(self) -> None:
        if self.path is not None and self.seed:
            raise UserError(f"Task phonebook: seed is {self.seed}, but the book is read from {self.path}; remove one.")
        if self.path is None and self.records is not None and self.records > MAX_RECORDS:
            raise UserError(f"Task phonebook: records is {self.records}; there are names for 1 to {MAX_RECORDS}.")

    @cached_property
    def _fixed(self) -> list[Record] | None:
        """The records, where their number is given."""
        if self.path is None:
            return None if self.records is None else generate_phonebook(self.records, self.seed)
        read = read_records(self.path)
        if self.records is not None and self.records > len(read):
            raise UserError(f"Task phonebook: records is {self.records}, but {self.path} holds only {len(read)}.")
        return read[: self.records]

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash of names, numbers and their encoding; of the recipe where the number of records is left open."""
        encoder = Encoder(tokenizer, system=self.system)
        content: Any = {"phonebook": self.seed, "names": digest([FIRST_NAMES, LAST_NAMES])}
        if self._fixed is None:
            return records_fingerprint(encoder, content, _entries(self.seed))
        content = [(record.query, record.target) for record in self._fixed]
        return records_fingerprint(encoder, content, self._fixed)

    def samples(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, *, max_length: int | None = None
    ) -> list[Sample]:
        """The first records that reach `length` answer tokens, or all; see `length.samples_up_to`."""
        check_length(length)
        if self._fixed is None and length is None:
            raise UserError("A generated phone book has no end of its own; give `records` or a length.")
        encoder = Encoder(tokenizer, system=self.system, max_length=max_length)
        records = _entries(self.seed) if self._fixed is None else self._fixed
        return samples_up_to(encoder, records, length, source=self.path or "the phone book")

    def source_bits(self, tokenizer: PreTrainedTokenizerBase, length: int, samples: int) -> float | None:
        """Of the numbers, each drawn from those not yet given away; None for a file's. Names are in the prompts."""
        return None if self.path is not None else sum(math.log2(_NUMBERS - given) for given in range(samples))


def _entries(seed: int) -> Iterator[Record]:
    # Python promises the stream of random() for ever, of nothing else; NumPy may change any of its distributions.
    names, digits = random.Random(f"phonebook names {seed}"), random.Random(f"phonebook numbers {seed}")
    order = list(range(MAX_RECORDS))
    used: set[int] = set()
    for position in range(MAX_RECORDS):
        other = position + int(names.random() * (MAX_RECORDS - position))
        order[position], order[other] = order[other], order[position]
        first, last = divmod(order[position], len(LAST_NAMES))
        while (number := _LOWEST + int(digits.random() * _NUMBERS)) in used:
            pass
        used.add(number)
        query = f"{FIRST_NAMES[first]} {LAST_NAMES[last]}:"
        yield Record(key=query, query=query, target=str(number))
