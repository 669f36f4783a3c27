"""Run with 8 simulated devices: the same adapters trained on meshes of every shape. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from memlaw_jax.errors import UserError
from memlaw_jax.mesh import Axes, MeshConfig
from memlaw_jax.models import Base, load_base
from memlaw_jax.training import Frozen, OptimConfig, Outcome, Placement, pool

from . import lab
from .eight_devices import COLLECTIVE, Compiled, original

# One device with one lane instead of eight moves this adapter's losses by 0.002 already, all others' by 5e-6.
UNSTEADY = "cell 3"
OPTIM = OptimConfig(steps=8, batch_size=8)
SHAPES = {
    "whole": [(8, 1, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8), (2, 1, 2, 2)],
    "picked": [(1, 8, 1, 1), (1, 2, 2, 2)],
}


def run(base: Base, placement: Placement, kind: str, targets: tuple[str, ...], lanes: int) -> dict[str, Outcome]:
    frozen = Frozen(base, lab.cells(targets)[0].lora, placement=placement)
    options: dict[str, Any] = {"frozen": frozen, "lanes": lanes, "steps_per_dispatch": 4}
    if kind == "whole":
        return lab.run(base, lab.sequence(base), lab.cells(targets), **options)
    return lab.run(base, lab.book(base, 16), lab.cells(targets), optim=OPTIM, **options)


def difference(found: dict[str, Outcome], wanted: dict[str, Outcome]) -> float:
    """The largest, of any step's loss and any token's at the end."""
    assert found.keys() == wanted.keys()
    parts = []
    for name, outcome in wanted.items():
        if name == UNSTEADY:
            continue
        mine = found[name]
        pairs = [(mine.history.loss, outcome.history.loss), (mine.final.nats, outcome.final.nats)]
        parts += [float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs]
    return max(parts)


def main(directory: str, kind: str, targets: str) -> None:
    modules, alone = tuple(targets.split(",")), load_base(directory)
    one = Placement(jax.make_mesh((1,), ("adapters",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1]))
    found: dict[str, Any] = {"differences": {}, "collectives": {}}
    wanted = {lanes: run(alone, one, kind, modules, lanes) for lanes in (1, 8)}
    for shape in SHAPES[kind]:
        mesh = MeshConfig(ici=Axes(**dict(zip(("adapters", "data", "fsdp", "tensor"), shape, strict=True)))).build()
        placement = Placement(mesh)
        pool.run_steps = Compiled(original)  # type: ignore[attr-defined]
        outcomes = run(load_base(directory, mesh=mesh), placement, kind, modules, 8)
        name, held = "×".join(map(str, shape)), 8 // placement.ways
        found["differences"][name] = difference(outcomes, wanted[held if held in wanted else 8])
        texts = pool.run_steps.texts  # type: ignore[attr-defined]
        found["collectives"][name] = sorted({word for text in texts for word in COLLECTIVE.findall(text)})
    if kind == "whole":
        pool.run_steps = original  # type: ignore[attr-defined]
        all_of_them = MeshConfig().build()
        by_jit = run(alone, Placement(all_of_them), kind, modules, 16)
        found["pmap"] = difference(run(alone, Placement(all_of_them, "pmap"), kind, modules, 16), by_jit)
        found["refusals"] = [refusal(shape) for shape in ({"fsdp": 3}, {"adapters": 2, "data": 2}, {"data": 0})]
        found["refusals"].append(refused(lambda: MeshConfig(ici=Axes(adapters=-1, fsdp=-1))))
        tensors = MeshConfig(ici=Axes(tensor=2)).build()
        found["refusals"].append(refused(lambda: Placement(tensors, "pmap")))
        data = MeshConfig(ici=Axes(data=4)).build()
        found["refusals"].append(
            refused(lambda: run(load_base(directory, mesh=data), Placement(data), kind, modules, 8))
        )
    print(json.dumps(found))


def refusal(shape: dict[str, int]) -> str | None:
    return refused(lambda: MeshConfig(ici=Axes(**shape)).build())


def refused(function: Any) -> str | None:
    try:
        function()
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
