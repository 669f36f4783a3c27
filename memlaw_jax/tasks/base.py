"""What every task offers, and how a config makes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from memlaw_jax.errors import UserError
from memlaw_jax.tasks.encoding import Sample
from memlaw_jax.tasks.linear_rule import LinearRule
from memlaw_jax.tasks.long_context import LongContext
from memlaw_jax.tasks.phonebook import PhoneBook
from memlaw_jax.tasks.records_task import RecordsTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@runtime_checkable
class Task(Protocol):
    """Something to memorise, at any length.

    A task whose unseen samples follow the same rule offers them as `HasHeldout` says; one that drew its answers itself
    says of how many they are one, as `HasSource` says.
    """

    @property
    def name(self) -> str:
        """The kind, as in a config."""
        ...

    def fingerprint(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Stable hash of the content (not of its path) as this tokenizer encodes it."""
        ...

    def samples(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, *, max_length: int | None = None
    ) -> list[Sample]:
        """Samples whose answers reach `length` tokens (None: everything), each at most `max_length` tokens long."""
        ...


@runtime_checkable
class HasHeldout(Protocol):
    """What a task has besides if generalisation can be measured on it: ask `isinstance(task, HasHeldout)`."""

    def heldout_samples(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None) -> list[Sample]:
        """Samples that `Task.samples` returns at no length; perhaps none, where the settings ask for none."""
        ...


@runtime_checkable
class HasSource(Protocol):
    """What a task has besides if it knows the process that drew its answers: ask `isinstance(task, HasSource)`."""

    def source_bits(self, tokenizer: PreTrainedTokenizerBase, length: int, samples: int) -> float | None:
        """Entropy in bits of the counted answer tokens, `length` of them over so many samples, given the prompts.

        None where these settings leave it unknown, as for a text.
        """
        ...


KINDS: dict[str, type[PhoneBook] | type[LongContext] | type[RecordsTask] | type[LinearRule]] = {
    task.name: task for task in (PhoneBook, LongContext, RecordsTask, LinearRule)
}


def make_task(spec: Mapping[str, Any]) -> Task:
    """The task of a config such as {"kind": "phonebook", "records": 100}; UserError names what is allowed."""
    allowed = ", ".join(KINDS)
    if not isinstance(spec, Mapping):
        raise UserError(f"task is {spec!r}; give a mapping with `kind`, one of {allowed}.")
    if "kind" not in spec:
        raise UserError(f"task has no `kind`; give one of {allowed}.")
    kind = spec["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"task kind is {kind!r}; allowed are {allowed}.")
    settings = {str(key): value for key, value in spec.items() if key != "kind"}
    return KINDS[kind](**settings)
