"""What a record says of the answers of its cell, beyond how well they are remembered."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import memlaw_jax as ml
from memlaw_jax.models import Base
from memlaw_jax.tasks import LinearRule, LongContext, PhoneBook, Task
from memlaw_jax.tasks.long_context import ordinary_ids
from memlaw_jax.training import OptimConfig, SweepResults

pytestmark = pytest.mark.usefixtures("quick_compiler")


def swept(base: Base, task: Task, out: Path, **more: Any) -> SweepResults:
    return ml.sweep(base, task, ranks=[1], optim=OptimConfig(steps=1), out=out, **more)


def test_records_of_random_tokens_say_their_entropy_and_stand_beside_older_ones_that_do_not(base: Base, tmp_path: Path):
    task, path = LongContext(tokens=8), tmp_path / "results.jsonl"
    bits = math.log2(len(ordinary_ids(base.tokenizer)))
    (first,) = swept(base, task, tmp_path, lengths=[4]).records
    assert first["source_bits"] == 4 * bits
    old = {key: value for key, value in first.items() if key != "source_bits"}
    path.write_text(json.dumps(old) + "\n")
    again, second = swept(base, task, tmp_path, lengths=[4, 8]).records
    assert again == old and second["source_bits"] == 8 * bits


def test_records_of_a_phone_book_say_its_entropy(base: Base, tmp_path: Path):
    (record,) = swept(base, PhoneBook(records=2), tmp_path).records
    assert record["samples"] == 2 and record["source_bits"] == pytest.approx(2 * math.log2(4e9), rel=1e-9)


def test_records_of_a_rule_say_how_long_the_held_out_answers_are_and_no_entropy(base: Base, tmp_path: Path):
    task = LinearRule(pairs=3, heldout=2)
    (record,) = swept(base, task, tmp_path).records
    unseen = task.heldout_samples(base.tokenizer)
    assert record["heldout"]["samples"] == len(unseen) == 2
    assert record["heldout"]["length"] == sum(len(sample.answer) for sample in unseen)
    assert record["source_bits"] is None
