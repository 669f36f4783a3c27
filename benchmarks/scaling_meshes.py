"""Meshes beside each other without a compiler: memory and collectives reckoned from shapes, as `memlaw check` does for
GPUs. `scaling.py` compiles some of them, which takes minutes each; what XLA makes of the rest may send more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scaling_cases import Case

MESHES = "meshes.json"


def meshes(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of each case, bytes a chip, what its chips send and the predicted time of a step."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from memlaw_jax.check.abstract import abstract_base
    from memlaw_jax.check.compiled import reckoned_step
    from memlaw_jax.check.grid_report import Memory
    from memlaw_jax.check.hardware import find_hardware
    from memlaw_jax.check.lower import largest_pool
    from memlaw_jax.check.phonebook import shaped
    from memlaw_jax.check.predict import predict
    from memlaw_jax.check.topology import stand_ins
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.training.placement import Placement

    found = []
    for case in cases:
        config = shaped(read_config(case.path, case.overrides))
        hardware = find_hardware(config.hardware or "")
        placement = Placement(config.mesh.build(stand_ins(hardware)), config.parallelism)
        plan = largest_pool(abstract_base(config.model, config.dtype, config.attention)[0], config, placement)
        step = reckoned_step(plan, hardware.chip.usable)
        made, memory = predict(plan, step.remat, step.collectives or (), hardware.chip), Memory.of(step)
        found.append(
            {
                "case": case.name, "group": "mesh", "model": config.model, "task": config.made_task().name,
                "hardware": hardware.name, "chips": hardware.chips, "mesh": placement.describe(),
                "step": {"lanes": plan.lanes, "remat": step.remat},
                "memory_a_chip": asdict(memory) | {"total": memory.total},
                "collectives": [asdict(one) for one in step.collectives or ()],
                "predicted": asdict(made)
                | {
                    "seconds": made.seconds, "bound": made.bound,
                    "compute_to_communication": made.compute_to_communication,
                },
            }
        )  # fmt: skip
        print(f"{case.name}: {made.seconds:.3g} s a step, reckoned", flush=True)
    return found
