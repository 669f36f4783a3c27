"""The paper's phone book: its batch size depends on the length, and a sweep has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from common.given import Given, Part
from common.numbers import paper
from memlaw_jax.errors import UserError


def by_batch(given: Given, overrides: Sequence[str]) -> list[Part]:
    """A sweep for the lengths of each batch size, from the `phonebook` file of `tpu_configs/`.

    Lengths and a batch size of the user's own are kept.
    """
    whole = given.paper_sweep("phonebook", overrides)
    if any(one.startswith("optim.batch_size=") for one in given.args.overrides):
        return [Part(folder=f"batch{whole.optim.batch_size}", config=whole)]
    steps, made, start = paper()["protocol"]["phonebook"]["batch_size"][given.family], [], 0
    for step in steps:
        end = step["up_to"] if step is not steps[-1] else max(length or 0 for length in whole.lengths)
        lengths = tuple(length for length in whole.lengths if start < (length or 0) <= end)
        start = step["up_to"]
        if lengths:
            optim = dataclasses.replace(whole.optim, batch_size=step["size"])
            config = dataclasses.replace(whole, lengths=lengths, optim=optim)
            made.append(Part(folder=f"batch{step['size']}", config=config))
    if not made:
        raise UserError(f"lengths={list(whole.lengths)} names no length; give answer tokens, such as lengths=[1000].")
    return made
