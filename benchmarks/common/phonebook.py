"""The paper's phone book: its batch size depends on the length, and a sweep has one."""

from __future__ import annotations

from collections.abc import Sequence

from common.given import Given, Part
from common.numbers import paper


def by_batch(given: Given, overrides: Sequence[str]) -> list[Part]:
    """A sweep for the lengths of each batch size, from the `phonebook` file of `tpu_configs/`."""
    said, made, start = paper()["protocol"]["phonebook"], [], 0
    for step in said["batch_size"][given.family]:
        lengths = [length for length in said["lengths"] if start < length <= step["up_to"]]
        start = step["up_to"]
        changes = [f"lengths={lengths}", f"optim.batch_size={step['size']}"]
        made.append(Part(folder=f"batch{step['size']}", config=given.paper_sweep("phonebook", [*changes, *overrides])))
    return made
