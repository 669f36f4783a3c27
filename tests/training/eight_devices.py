"""Run with 8 simulated devices: the lanes' numbers on one and on eight of them, and the collectives of the step.

Prints one JSON object.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from memlaw_jax.models import load_base
from memlaw_jax.training import Frozen, Placement, pool

from . import lab

COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter")


class Compiled:
    """In the place of `run_steps`: compiles it before its first call and keeps the program's text."""

    def __init__(self, function: Any):
        self.function, self.texts, self.programs = function, [], {}

    def __call__(self, program: Any, *arguments: Any, mesh: Any = None) -> Any:
        key = str(jax.tree.map(lambda leaf: (leaf.shape, str(getattr(leaf, "sharding", None))), arguments))
        if key not in self.programs:
            self.programs[key] = self.function.lower(program, *arguments, mesh=mesh).compile()
            self.texts.append(self.programs[key].as_text())
        return self.programs[key](*arguments)


def main(model: str) -> None:
    base = load_base(model)
    one = jax.make_mesh((1,), ("adapters",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    found: dict[str, Any] = {"devices": jax.device_count()}
    for name, placement in (("one", Placement(one)), ("all", Placement())):
        pool.run_steps = Compiled(original)  # type: ignore[attr-defined]
        frozen = Frozen(base, lab.cells()[0].lora, placement=placement)
        outcomes = lab.run(base, lab.sequence(base), lab.cells(), frozen=frozen)
        found[name] = {cell: [float(x) for x in outcome.history.loss] for cell, outcome in outcomes.items()}
        found[f"{name} final"] = {cell: outcome.final.loss for cell, outcome in outcomes.items()}
        texts = pool.run_steps.texts  # type: ignore[attr-defined]
        found[f"{name} programs"] = len(texts)
        found[f"{name} collectives"] = sorted({word for text in texts for word in COLLECTIVE.findall(text)})
        found[f"{name} partitions"] = [int(n) for text in texts for n in re.findall(r"num_partitions=(\d+)", text)]
    spread = jax.device_put(np.ones((8, 4)), NamedSharding(Placement().mesh, PartitionSpec("adapters")))
    crossing = jax.jit(lambda x: jnp.sum(x, axis=0)).lower(spread).compile().as_text()
    found["control"] = sorted(set(COLLECTIVE.findall(crossing)))
    print(json.dumps(found))


original = pool.run_steps

if __name__ == "__main__":
    main(sys.argv[1])
