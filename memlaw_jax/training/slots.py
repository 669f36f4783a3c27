"""Lanes as arrays of all of them: one is put in, taken out, or brought to another rank."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.sharding import to_host
from memlaw_jax.training.step import Lane


@functools.partial(jax.jit, donate_argnums=0)
def put(lanes: Lane, fresh: Lane, index: Int[Array, ""]) -> Lane:
    """The lanes with a fresh one at `index`; lanes on other devices than that one's stay where they are."""
    return jax.tree.map(lambda stack, leaf: jnp.where(_only(stack, index), leaf, stack), lanes, fresh)


def take(lanes: Any, index: int) -> Any:
    """One lane's arrays, on the host of every process."""
    return to_host(_taken(lanes, index))


@jax.jit
def _taken(lanes: Any, index: Int[Array, ""]) -> Any:
    """What only one device has becomes a sum to which the others add nothing, and each has a copy."""

    def one(stack: Array) -> Array:
        return jnp.where(_only(stack, index), stack, jnp.zeros((), stack.dtype)).sum(axis=0, dtype=stack.dtype)

    return jax.tree.map(one, lanes)


def _only(stack: Array, index: Int[Array, ""]) -> Bool[Array, "..."]:
    return (jnp.arange(len(stack)) == index).reshape(-1, *[1] * (stack.ndim - 1))


def resized(lane: Lane, change: Callable[[AdapterWeights, int], AdapterWeights], rank: int) -> Lane:
    """A lane whose adapter and moments are padded or trimmed to a rank."""
    first, second = change(lane.moments.first, rank), change(lane.moments.second, rank)
    moments = dataclasses.replace(lane.moments, first=first, second=second)
    return dataclasses.replace(lane, weights=change(lane.weights, rank), moments=moments)
