"""A captured constant over 1 MB is a bug (STYLE.md, 1): it is compiled into the program and lives there twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.models import Cut, LoraConfig, init_adapter, load_base, upper_weights
from memlaw_jax.objectives import Sft
from memlaw_jax.readout import prepare
from memlaw_jax.readout.verify import _verify_rows
from memlaw_jax.training import LaneSettings, OptimConfig, Program, new_lane, run_steps

from . import lab

pytestmark = pytest.mark.usefixtures("quick_compiler")

MEGABYTE = 1_000_000


def constants(jaxpr: Any, values: Any = ()) -> Iterator[Any]:
    """Every array captured in a traced program, however deep."""
    yield from values
    for equation in jaxpr.eqns:
        for variable in equation.invars:
            if hasattr(variable, "val"):
                yield variable.val
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda node: hasattr(node, "eqns")):
            if hasattr(value, "jaxpr"):
                yield from constants(value.jaxpr, value.consts)
            elif hasattr(value, "eqns"):
                yield from constants(value)


def largest(function: Any, *arguments: Any, static: tuple[int, ...]) -> int:
    """Bytes of the largest one."""
    traced = jax.make_jaxpr(function, static_argnums=static)(*arguments)
    return max((np.asarray(value).nbytes for value in constants(traced.jaxpr, traced.consts)), default=0)


def test_a_captured_array_would_be_found() -> None:
    weights = jnp.ones((600, 600))
    captures = jax.jit(lambda x: jax.lax.scan(lambda y, _: (y @ weights, None), x, None, length=2)[0])
    assert largest(captures, jnp.ones((1, 600)), static=()) > MEGABYTE


def test_frozen_weights_are_arguments_of_every_compiled_program() -> None:
    """With the embedded model, whose matrices are larger than the limit; traced, not compiled."""
    base, lora = load_base("embedded"), LoraConfig(rank=2)
    program = Program(base.config, Cut.of(base.config, lora), (Sft(),), OptimConfig(steps=4))
    assert max(leaf.nbytes for leaf in jax.tree.leaves(base.params)) > MEGABYTE
    data, upper = prepare(base, lab.sequence(base), program.cut), upper_weights(base.config, base.params, program.cut)
    lanes = jax.vmap(lambda key: new_lane(program, init_adapter(base.config, lora, key), 1, 1))(
        jax.random.split(jax.random.key(0), 2)
    )
    ones = jnp.ones(2)
    settings = LaneSettings(
        scale=ones,
        learning_rate=ones,
        total_steps=jnp.array([4, 4]),
        seed=jnp.array([0, 1], jnp.uint32),
        objective=jnp.zeros(2, jnp.int32),
        data=jnp.zeros(2, jnp.int32),
    )
    rows = np.zeros((3, 2, 0), np.int32)
    assert largest(run_steps, program, lanes, settings, upper, data, rows, static=(0,)) < MEGABYTE
    verified = base.config, program.cut, None, upper, data, lanes.weights, ones, settings.data, np.zeros(1, np.int32)
    assert largest(_verify_rows, *verified, static=(0, 1, 2)) < MEGABYTE
