"""Run with 8 simulated devices: losses and gradients of adapters split over them, and the collectives.

Prints one JSON object.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from memlaw_jax.objectives import token_loss, token_scores

from .plain_head import random_case

COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter")
CHUNK = 32


def step(hidden: Any, head: Any, labels: Any) -> Any:
    def loss(hidden: Any, labels: Any) -> Any:
        scores = token_scores(hidden, head, labels)
        return scores.nats.mean(), scores

    return jax.vmap(jax.value_and_grad(loss, has_aux=True))(hidden, labels)


def verify(hidden: Any, head: Any, labels: Any) -> Any:
    return jax.vmap(lambda hidden, labels: token_scores(hidden, head, labels))(hidden, labels)


def crossing(hidden: Any, head: Any, labels: Any) -> Any:
    return hidden.sum(axis=0)


def main() -> None:
    token_loss.CHUNK_TOKENS = {jax.default_backend(): CHUNK}
    case = random_case((16, 2, 7), 8, 61)
    mesh = jax.make_mesh((8,), ("adapters",), axis_types=(AxisType.Auto,))
    split, copied = (NamedSharding(mesh, spec) for spec in (PartitionSpec("adapters"), PartitionSpec()))
    found: dict[str, Any] = {"devices": jax.device_count()}
    for function in (step, verify, crossing):
        alone = jax.jit(function)(*case)
        spread = jax.jit(function).lower(*jax.device_put(case, (split, copied, split))).compile()
        text = spread.as_text()
        results = spread(*jax.device_put(case, (split, copied, split)))
        found[function.__name__] = {
            "collectives": sorted(set(COLLECTIVE.findall(text))),
            "loops": len(re.findall(r" while\(", text)),
            "partitions": [int(n) for n in re.findall(r"num_partitions=(\d+)", text)],
            "split": [leaf.sharding.is_equivalent_to(split, leaf.ndim) for leaf in jax.tree.leaves(results)],
            "difference": max(
                float(np.abs(np.asarray(a, np.float64) - np.asarray(b)).max())
                for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(alone), strict=True)
            ),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
