"""How long the whole grid of a config should take: `memlaw_jax.check.predict_grid` for each case.

Adapters alone send nothing, so no compiler is asked. Loading, features, compilation and the host's looks are left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from scaling_cases import Case

GRIDS = "grids.json"


def grids(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Predicted time and cost of each case whose mesh splits adapters only."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from memlaw_jax.check import find_hardware, predict_grid
    from memlaw_jax.check.abstract import abstract_base
    from memlaw_jax.check.compiled import RESERVE
    from memlaw_jax.cli.config import read_config

    found = []
    for case in cases:
        config = read_config(case.path, case.overrides)
        hardware, made = find_hardware(config.hardware or ""), predict_grid(config)
        base, _ = abstract_base(config.model, config.dtype, config.attention)
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(base.params))
        # the whole model is split while it loads
        loading = made.memory.frozen_weights + made.memory.features + whole // hardware.chips
        found.append(
            {
                "case": case.name, "group": case.group, "model": made.model, "task": made.task,
                "hardware": made.hardware, "chips": made.chips, "lanes": made.lanes, "loading_a_chip": loading,
                "loads": loading <= (1 - RESERVE) * hardware.chip.usable, "cells": made.cells,
                "laws": len(config.methods) * len(config.seeds),
                "step_seconds": max(row.step_seconds for row in made.rows), "seconds": made.training,
                "usd": None if hardware.price is None else hardware.price * made.training / 3600,
                "by_length": {
                    str(row.length): {"step_seconds": row.step_seconds, "steps": row.steps, "remat": row.remat}
                    for row in made.rows
                },
            }
        )  # fmt: skip
        print(f"{case.name}: {made.training / 3600:.2f} h", flush=True)
    return found
