"""Rematerialisation: less memory, the same numbers, and no more of it than memory asks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.models import Base, Cut, LoraConfig, init_adapter, upper_weights
from memlaw_jax.models.decoder import Remat
from memlaw_jax.objectives import Sft
from memlaw_jax.readout import prepare
from memlaw_jax.training import LaneSettings, OptimConfig, Program, new_lane, run_steps
from memlaw_jax.training.memory import kept_bytes, needed_remat

from . import lab

pytestmark = pytest.mark.usefixtures("quick_compiler")

LORA = LoraConfig(rank=4, targets=lab.LINEAR)  # in every block, as PEFT does
LANES, TOKENS = 4, 200
KINDS: tuple[Remat, ...] = ("none", "dots", "blocks")


def step(base: Base, remat: Remat) -> tuple[Any, int]:
    """Metrics of three steps, and the bytes of temporaries of the compiled program."""
    program = Program(base.config, Cut.of(base.config, LORA), (Sft(),), OptimConfig(steps=4), 0.0, remat)
    data = prepare(base, lab.sequence(base, TOKENS), program.cut)
    lanes = jax.vmap(lambda key: new_lane(program, init_adapter(base.config, LORA, key), 1, 1))(
        jax.random.split(jax.random.key(0), LANES)
    )
    zeros = jnp.zeros(LANES, jnp.int32)
    settings = LaneSettings(
        scale=jnp.ones(LANES),
        learning_rate=jnp.full(LANES, 1e-2),
        total_steps=zeros + 4,
        seed=zeros.astype(jnp.uint32),
        objective=zeros,
        data=zeros,
    )
    upper = upper_weights(base.config, base.params, program.cut)
    rows = jnp.zeros((3, LANES, 0), jnp.int32)
    compiled = run_steps.lower(program, lanes, settings, upper, data, rows).compile()
    return jax.device_get(compiled(lanes, settings, upper, data, rows)), compiled.memory_analysis().temp_size_in_bytes


@pytest.fixture(scope="module")
def steps(base: Base) -> dict[Remat, tuple[Any, int]]:
    return {remat: step(base, remat) for remat in KINDS}


def test_what_is_computed_again_is_the_same(steps: dict[Remat, tuple[Any, int]]) -> None:
    """Float32 sums may be fused in another order: on losses of about 5 over three steps."""
    (_, expected), _ = steps["none"]
    for remat in KINDS[1:]:
        (_, found), _ = steps[remat]
        np.testing.assert_allclose(found.loss, expected.loss, atol=5e-6)
        np.testing.assert_allclose(found.gradient_norm, expected.gradient_norm, rtol=2e-5)


def test_it_saves_memory(steps: dict[Remat, tuple[Any, int]]) -> None:
    taken = [steps[remat][1] for remat in KINDS]
    assert taken[0] > 1.1 * taken[1] > 1.2 * taken[2], taken


def test_no_more_is_computed_again_than_memory_asks_for(base: Base) -> None:
    cut, tokens = Cut.of(base.config, LORA), LANES * TOKENS
    need = [kept_bytes(base.config, cut, "float32", tokens, remat) for remat in KINDS]
    assert need[0] > need[1] > need[2]
    for free, expected in ((10 * need[0], "none"), (2 * need[1], "dots"), (1.6 * need[2], "blocks"), (0, "blocks")):
        assert needed_remat(base.config, cut, "float32", tokens, free) == expected
    # half the width of an element, and a shallower part to differentiate, need less
    assert kept_bytes(base.config, cut, "bfloat16", tokens, "none") < need[0]
    high = Cut.of(base.config, dataclasses.replace(LORA, layers=(3,)))
    assert kept_bytes(base.config, high, "float32", tokens, "none") < need[0] / 2
