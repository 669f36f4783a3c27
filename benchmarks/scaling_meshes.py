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
    from memlaw_jax.check.hardware import find_hardware
    from memlaw_jax.check.lower import bytes_a_chip, largest_pool
    from memlaw_jax.check.phonebook import shaped
    from memlaw_jax.check.predict import predict
    from memlaw_jax.check.reckon import reckoned_collectives, reckoned_temporaries
    from memlaw_jax.check.topology import slice_devices
    from memlaw_jax.cli.config import read_config
    from memlaw_jax.training.placement import Placement

    found = []
    for case in cases:
        config = shaped(read_config(case.path, case.overrides))
        hardware = find_hardware(config.hardware)
        placement = Placement(config.mesh.build(slice_devices(hardware)), config.parallelism)
        plan = largest_pool(abstract_base(config.model, config.dtype, config.attention)[0], config, placement)
        weights, features = bytes_a_chip(plan.upper), bytes_a_chip(plan.data)
        remat = plan.remat(hardware.chip.usable - weights - features)
        told = reckoned_collectives(plan, remat)
        made = predict(plan, remat, told, hardware.chip)
        lanes, settings, _, _, rows = plan.arguments(plan.program(remat))
        adapters, temporaries = bytes_a_chip((lanes, settings, rows)), reckoned_temporaries(plan, remat)
        found.append(
            {
                "case": case.name, "group": "mesh", "model": config.model, "task": config.made_task().name,
                "hardware": hardware.name, "chips": hardware.chips, "mesh": placement.describe(),
                "step": {"lanes": plan.lanes, "remat": remat},
                "memory_a_chip": {
                    "frozen_weights": weights, "adapters": adapters, "features": features, "temporaries": temporaries,
                    "total": weights + adapters + features + temporaries, "usable": hardware.chip.usable,
                },
                "collectives": [asdict(one) for one in told],
                "predicted": asdict(made)
                | {
                    "seconds": made.seconds, "bound": made.bound,
                    "compute_to_communication": made.compute_to_communication,
                },
            }
        )  # fmt: skip
        print(f"{case.name}: {made.seconds:.3g} s a step, reckoned", flush=True)
    return found
