"""The pool that is checked against the pool that trains: the same program, shapes, dtypes and places."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from memlaw_jax.check.abstract import abstract_base
from memlaw_jax.check.lower import PoolPlan, bytes_a_chip, largest_pool
from memlaw_jax.errors import UserError
from memlaw_jax.models import Base
from memlaw_jax.training import Placement, SweepConfig, pool, run_sweep

CONFIGS: dict[str, dict[str, Any]] = {
    "long context": {
        "task": {"kind": "long_context"}, "lengths": (24, 48), "ranks": (1, 3), "methods": ("sft", "memft-sw"),
        "lanes": 3, "optim": {"steps": 7}, "steps_per_dispatch": 4,
    },
    "phone book": {
        "task": {"kind": "phonebook"}, "lengths": (40, 120), "ranks": (2,), "seeds": (0, 1, 2),
        "optim": {"epochs": 3, "batch_size": 2}, "lora": {"dropout": 0.1},
    },
    "linear targets": {
        "task": {"kind": "long_context"}, "lengths": (16,), "ranks": (2, 4),
        "lora": {"targets": ("q_proj", "down_proj")}, "optim": {"steps": 3, "state": "bfloat16"},
    },
}  # fmt: skip


class Reached(Exception):
    """The first dispatch, with what it was given."""


def described(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_compiled_is_what_would_train(
    name: str, base: Base, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = SweepConfig(model=str(tiny_dir), remat="dots", **CONFIGS[name])
    plan = largest_pool(abstract_base(config.model, config.dtype, config.attention)[0], config, Placement())
    program = plan.program("dots")
    dispatches = []

    def stop(*given: Any, **more: Any) -> None:
        dispatches.append(given)
        raise Reached

    monkeypatch.setattr(pool, "run_steps", stop)
    # of the largest data set alone, which need not be in the first pool
    longest = max(config.lengths, key=lambda length: length or 0)
    sharing = len(plan.sets) > 1
    config = config if sharing else dataclasses.replace(config, lengths=(longest,))
    with pytest.raises(Reached):
        run_sweep(base, config, tmp_path / "out")
    assert described(plan.arguments(program)) == described(dispatches[0][1:])
    assert program == dispatches[0][0]
    for mine, real in zip(jax.tree.leaves(plan.arguments(program)), jax.tree.leaves(dispatches[0][1:]), strict=True):
        assert mine.sharding.is_equivalent_to(real.sharding, mine.ndim)


def planned(tiny_dir: Path, **changed: Any) -> PoolPlan:
    config = SweepConfig(model=str(tiny_dir), **(CONFIGS["long context"] | changed))
    return largest_pool(abstract_base(config.model, config.dtype, config.attention)[0], config, Placement())


def test_the_largest_pool_is_that_of_the_longest_text(tiny_dir: Path):
    assert planned(tiny_dir).bucket.slots >= 48
    assert planned(tiny_dir, lengths=(48, 24)).bucket == planned(tiny_dir).bucket


def test_lanes_are_shared_out_evenly_as_the_trainer_does(tiny_dir: Path):
    assert planned(tiny_dir).lanes == 2  # four cells in rounds of at most three are two rounds of two
    assert planned(tiny_dir, lanes=16).lanes == 4
    assert planned(tiny_dir).with_lanes(3).lanes == 3


def test_less_memory_computes_more_again(tiny_dir: Path):
    plan = planned(tiny_dir)
    assert plan.remat(1e12) == "none" and plan.remat(0) == "blocks"
    assert planned(tiny_dir, remat="dots").remat(0) == "dots"


def test_bytes_are_those_of_the_arrays(tiny_dir: Path, base: Base):
    real = sum(leaf.nbytes for leaf in jax.tree.leaves(base.params["layers"])) / base.config.num_layers
    blocks = base.config.num_layers - base.config.paper_layer - 1
    assert bytes_a_chip(planned(tiny_dir).upper.segments) == real * blocks


def test_a_known_model_needs_no_files_and_no_tokenizer():
    base, own = abstract_base("Qwen/Qwen3-8B", "bfloat16", "auto")
    size = sum(leaf.size for leaf in jax.tree.leaves(base.params))
    assert not own and base.tokenizer is not None
    assert 8.1e9 < size < 8.3e9  # "8.2B" on its card
    assert all(leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(base.params))


def test_an_unknown_model_is_refused():
    with pytest.raises(UserError, match=r"no/such-model.*config.json.*Qwen/Qwen3-8B"):
        abstract_base("no/such-model", "bfloat16", "auto")
    with pytest.raises(UserError, match="dtype is 'float8'"):
        abstract_base("embedded", "float8", "auto")
