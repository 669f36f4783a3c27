"""`parallelism: pmap`: the steps of `run_steps` as a program of its own on each device, with its share of the lanes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from memlaw_jax.models import Upper
from memlaw_jax.readout import DataSets
from memlaw_jax.sharding import RULES
from memlaw_jax.training.step import Lane, LaneSettings, Metrics, Program, steps

LANES = RULES["lanes"]


def run_steps_by_pmap(
    program: Program,
    lanes: Lane,
    settings: LaneSettings,
    upper: Upper,
    data: DataSets,
    rows: Int[Array, "K N B"] | Int[Array, "K N 0"],
    mesh: Mesh,
) -> tuple[Lane, Metrics]:
    """As `step.run_steps`; the lanes that go in are used up."""
    by_lane, by_step = _folded(mesh, 0), _folded(mesh, 1)
    done = _pmapped(program, mesh)(by_lane(lanes), by_lane(settings), upper, data, by_step(rows))
    lanes, metrics = jax.tree.map(functools.partial(_joined, mesh), done)
    return _unfolded(mesh, 0)(lanes), _unfolded(mesh, 1)(metrics)


@functools.cache
def _pmapped(program: Program, mesh: Mesh) -> Any:
    body, devices = functools.partial(steps, program), list(mesh.devices.flat)
    return jax.pmap(body, in_axes=(0, 0, None, None, 0), donate_argnums=0, devices=devices)


def _joined(mesh: Mesh, leaf: Array) -> Array:
    """What pmap made on this process's devices as a part of what all processes made."""
    shape = mesh.size, *leaf.shape[1:]
    place = NamedSharding(mesh, PartitionSpec(LANES))
    return jax.make_array_from_single_device_arrays(shape, place, [part.data for part in leaf.addressable_shards])


@functools.cache
def _folded(mesh: Mesh, axis: int) -> Any:
    """Arrays whose `axis` is the lanes as pmap wants them: `[devices, …]`, the lanes of one behind. Nothing moves."""

    def one(leaf: Array) -> Array:
        before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
        return jnp.moveaxis(leaf.reshape(*before, mesh.size, leaf.shape[axis] // mesh.size, *after), axis, 0)

    place = NamedSharding(mesh, PartitionSpec(LANES))
    return jax.jit(lambda tree: jax.tree.map(one, tree), out_shardings=place)


@functools.cache
def _unfolded(mesh: Mesh, axis: int) -> Any:
    """Undoes `_folded`."""

    def one(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, axis)
        return leaf.reshape(*leaf.shape[:axis], mesh.size * leaf.shape[axis + 1], *leaf.shape[axis + 2 :])

    place = NamedSharding(mesh, PartitionSpec(*[None] * axis, LANES))
    return jax.jit(lambda tree: jax.tree.map(one, tree), out_shardings=place)
