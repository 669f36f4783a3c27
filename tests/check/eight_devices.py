"""Run with 8 simulated devices: compiles programs whose collectives are known by construction, prints their texts."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

SHAPE = {"adapters": 2, "data": 2, "fsdp": 2}
STEPS, BLOCKS, ROWS, WIDTH = 3, 5, 16, 64


def steps(weights: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """STEPS times: BLOCKS gathers along fsdp in an inner loop, then one of each other kind."""

    def block(x: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(x @ lax.all_gather(part, "fsdp", axis=0, tiled=True)), None

    def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        x, _ = lax.scan(block, x, weights)
        x = lax.psum(x, "data")
        x = x + lax.ppermute(x, "data", [(0, 1), (1, 0)])
        x = jnp.tanh(lax.psum_scatter(x, ("data", "fsdp"), scatter_dimension=0, tiled=True))
        x = lax.all_gather(x, ("data", "fsdp"), axis=0, tiled=True)
        return jnp.tanh(lax.all_to_all(x, "fsdp", 0, 0, tiled=True)), x.sum()

    return lax.scan(step, x, length=STEPS)


def main() -> None:
    mesh = jax.make_mesh(tuple(SHAPE.values()), tuple(SHAPE))

    def text(function, ins, outs, *arguments) -> str:
        shapes = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
            for shape, spec in zip(arguments, ins, strict=True)
        ]
        mapped = jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)
        return jax.jit(mapped).lower(*shapes).compile().as_text()

    apart, cut, whole = PartitionSpec("adapters"), PartitionSpec(None, "fsdp"), PartitionSpec()
    found = {"steps": text(steps, (cut, apart), (apart, whole), (BLOCKS, WIDTH, WIDTH), (2 * ROWS, WIDTH))}
    found["crossing"] = text(lambda x: lax.psum(x, ("adapters", "fsdp")), (apart,), whole, (2 * ROWS, WIDTH))
    found["everywhere"] = text(lambda x: lax.psum(x, tuple(SHAPE)), (apart,), whole, (2 * ROWS, WIDTH))
    found["alone"] = text(jnp.tanh, (apart,), apart, (2 * ROWS, WIDTH))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
