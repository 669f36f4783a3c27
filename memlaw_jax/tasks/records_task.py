"""Any records of the user's own as a task."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator

from memlaw_jax.errors import UserError
from memlaw_jax.settings import PathText, settings
from memlaw_jax.tasks.chat import DEFAULT_SYSTEM
from memlaw_jax.tasks.encoding import Encoder, Sample
from memlaw_jax.tasks.fingerprint import records_fingerprint
from memlaw_jax.tasks.length import samples_up_to
from memlaw_jax.tasks.records import Record, make_records, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _as_records(value: Any) -> Any:
    return tuple(make_records(value)) if isinstance(value, list | tuple) else value


@settings
class RecordsTask:
    """Any records, from a file or given here.

    Attributes:
      path: a JSON Lines file or a text, see `read_records`.
      records: Records, mappings, or (query, target) pairs.
      system: the system message of chat models; None for none.
    """

    path: PathText | None = None
    records: Annotated[tuple[Record, ...], BeforeValidator(_as_records)] | None = None
    system: str | None = DEFAULT_SYSTEM

    name: ClassVar[str] = "records"
    label: ClassVar[str] = "Task records"

    def __post_init__(self) -> None:
        if (self.path is None) == (self.records is None):
            raise UserError("Task records needs either path (a file of records or a text) or records, and not both.")

    @cached_property
    def _records(self) -> tuple[Record, ...]:
        # Read once, so that the fingerprint and the samples are of the same content.
        return tuple(read_records(self.path)) if self.path is not None else self.records or ()

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Hash of the queries and targets and of their encoding."""
        encoder = Encoder(tokenizer, system=self.system)
        content = [(record.query, record.target) for record in self._records]
        return records_fingerprint(encoder, content, self._records)

    def samples(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, *, max_length: int | None = None
    ) -> list[Sample]:
        """The first records that reach `length` answer tokens, or all; see `length.samples_up_to`."""
        encoder = Encoder(tokenizer, system=self.system, max_length=max_length)
        return samples_up_to(encoder, self._records, length, source=self.path or "the data")
