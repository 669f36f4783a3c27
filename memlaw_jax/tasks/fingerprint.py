"""A short name for what a data set says, wherever it is stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

from memlaw_jax.tasks.encoding import Encoder
from memlaw_jax.tasks.records import Record

_PROBE = 32


def digest(content: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def records_fingerprint(encoder: Encoder, content: Any, records: Iterable[Record]) -> str:
    """Hash of the content and of how this tokenizer encodes its first records.

    The token ids stand for tokenizer, chat template and system message: what is the same to the model hashes the same.
    A few dozen records tell tokenizers apart without encoding thousands.
    """
    samples = (encoder.sample(record) for record in islice(records, _PROBE))
    return digest({"content": content, "ids": [(s.prompt, s.answer, s.suffix) for s in samples]})
