"""How long the whole grid of a config should take: `memlaw check`'s prediction for each length, added up.

Adapters alone send nothing, so no compiler is asked. Loading, features, compilation and the host's looks are left out.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from scaling_cases import Case

GRIDS = "grids.json"


def grids(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Predicted time and cost of each case whose mesh splits adapters only."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from memlaw_jax.check.compiled import RESERVE
    from memlaw_jax.check.hardware import find_hardware
    from memlaw_jax.cli.config import read_config

    known: dict[Any, tuple[dict[str, Any], int, int]] = {}
    found = []
    for case in cases:
        config = read_config(case.path, case.overrides)
        hardware = find_hardware(config.hardware)
        key = hardware.chip.name, config.model, config.made_task().name, config.lanes // hardware.chips
        if key not in known:
            known[key] = by_length(config)
        lengths, kept, whole = known[key]
        loading = kept + whole // hardware.chips
        found.append(
            {
                "case": case.name, "group": case.group, "model": config.model, "task": config.made_task().name,
                "hardware": hardware.name, "chips": hardware.chips, "lanes": config.lanes,
                "loading_a_chip": loading, "loads": loading <= (1 - RESERVE) * hardware.chip.usable,
            }
            | grid(config, lengths, hardware.price)
        )  # fmt: skip
        print(f"{case.name}: {found[-1]['seconds'] / 3600:.2f} h", flush=True)
    return found


def grid(config: Any, lengths: dict[str, Any], price: float | None) -> dict[str, Any]:
    """Seconds and dollars of all cells.

    Long contexts have one pool a length, one after the other. A phone book has one queue for all lengths, which keeps
    the lanes full until it is empty: it takes its share, and no less than its longest cell.
    """
    cells, lanes = len(config.ranks) * len(config.methods) * len(config.seeds), config.lanes
    if config.optim.epochs is None:
        seconds = sum(-(-cells // lanes) * one["steps"] * one["step_seconds"] for one in lengths.values())
    else:
        each = [one["steps"] * one["step_seconds"] for one in lengths.values()]
        seconds = max(cells / lanes * sum(each), max(each))
    return {
        "cells": cells * len(lengths),
        "laws": len(config.methods) * len(config.seeds),
        "step_seconds": max(one["step_seconds"] for one in lengths.values()),
        "seconds": seconds,
        "usd": None if price is None else price * seconds / 3600,
        "by_length": lengths,
    }


def by_length(config: Any) -> tuple[dict[str, Any], int, int]:
    """Of each length, the predicted seconds of a step, how many steps a cell has and what is computed again; then bytes
    a chip of weights above the cut and the most features, and bytes of the whole model, which is split while it loads.
    """
    import jax

    from memlaw_jax.check.abstract import abstract_base
    from memlaw_jax.check.hardware import find_hardware
    from memlaw_jax.check.lower import bytes_a_chip, largest_pool
    from memlaw_jax.check.phonebook import shaped
    from memlaw_jax.check.predict import predict
    from memlaw_jax.check.topology import slice_devices, stand_ins
    from memlaw_jax.training.placement import Placement

    hardware = find_hardware(config.hardware)
    devices = slice_devices(hardware) if hardware.chip.platform == "tpu" else stand_ins(hardware)
    placement = Placement(config.mesh.build(devices), config.parallelism)
    base, own = abstract_base(config.model, config.dtype, config.attention)
    made, kept, config = {}, 0, config if own else shaped(config)
    for length in config.lengths:
        plan = largest_pool(base, dataclasses.replace(config, lengths=(length,)), placement)
        resident = bytes_a_chip(plan.upper) + bytes_a_chip(plan.data)
        kept = max(kept, resident)
        remat = plan.remat(hardware.chip.usable - resident)
        made[str(length)] = {
            "step_seconds": predict(plan, remat, [], hardware.chip).seconds,
            "steps": config.optim.total_steps(len(plan.sets[0].tokens)),
            "remat": remat,
        }
    return made, kept, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(base.params))
