"""Run with 8 simulated devices: a base on one device and spread over a mesh. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from memlaw_jax.errors import UserError
from memlaw_jax.models import load_base


def mesh(**axes: int) -> jax.sharding.Mesh:
    count = int(np.prod(list(axes.values())))
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds, devices=jax.devices()[:count])


def main(directory: str) -> None:
    tokens = np.arange(24).reshape(2, 12) % 90
    one = load_base(directory)
    found: dict[str, Any] = {}
    for axes in ({"fsdp": 4, "tensor": 2}, {"tensor": 8}, {"adapters": 2, "fsdp": 2}):
        spread = load_base(directory, mesh=mesh(**axes))
        pairs = list(zip(jax.tree.leaves(one.params), jax.tree.leaves(spread.params), strict=True))
        sizes = [sum(shard.data.nbytes for shard in leaf.addressable_shards) for _, leaf in pairs]
        found["-".join(axes)] = {
            "equal": all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs),
            "largest_share": max(
                shard.data.size / leaf.size
                for _, leaf in pairs
                if leaf.size > 2048
                for shard in leaf.addressable_shards
            ),
            "copies": sum(sizes) / sum(leaf.nbytes for _, leaf in pairs),
            "logits": float(np.abs(np.asarray(spread.logits(tokens)) - np.asarray(one.logits(tokens))).max()),
        }
    explicit = load_base(directory, mesh=jax.make_mesh((4, 2), ("fsdp", "tensor")))
    found["explicit"] = float(np.abs(np.asarray(explicit.logits(tokens)) - np.asarray(one.logits(tokens))).max())
    try:
        load_base(directory, mesh=mesh(fsdp=5))
    except UserError as error:
        found["error"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
