"""Memorisation tasks: what an adapter is asked to remember, as token ids with an exact answer mask."""

from memlaw_jax.tasks.base import HasHeldout, HasSource, Task, make_task
from memlaw_jax.tasks.chat import DEFAULT_SYSTEM
from memlaw_jax.tasks.encoding import Encoded, Encoder, Sample, encode_prompt, encode_records, pad
from memlaw_jax.tasks.linear_rule import LinearRule
from memlaw_jax.tasks.long_context import LongContext
from memlaw_jax.tasks.phonebook import PhoneBook, generate_phonebook
from memlaw_jax.tasks.records import Record, make_records, read_records, text_records, write_records
from memlaw_jax.tasks.records_task import RecordsTask

__all__ = [
    "DEFAULT_SYSTEM",
    "Encoded",
    "Encoder",
    "HasHeldout",
    "HasSource",
    "LinearRule",
    "LongContext",
    "PhoneBook",
    "Record",
    "RecordsTask",
    "Sample",
    "Task",
    "encode_prompt",
    "encode_records",
    "generate_phonebook",
    "make_records",
    "make_task",
    "pad",
    "read_records",
    "text_records",
    "write_records",
]
