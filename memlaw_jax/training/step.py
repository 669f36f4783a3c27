"""The pure training step, for one adapter and, mapped, for many.

`train_step` is `(lane, settings, frozen weights, batch) -> (lane, metrics)`. Everything static sits in a `Program`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

from memlaw_jax.models import Cut, DecoderConfig, Dropout, Upper, upper_shardings
from memlaw_jax.models.decoder import Remat
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.objectives import Objective, TokenScores, weighted_loss
from memlaw_jax.objectives.objective import State
from memlaw_jax.readout import Batch, DataSets, score
from memlaw_jax.sharding import RULES, over
from memlaw_jax.training import adamw
from memlaw_jax.training.optim import OptimConfig

DROPOUT_STREAM = 1 << 16  # apart from the streams of `init_adapter`, which counts its targets
LN2 = math.log(2)


@dataclass(frozen=True)
class Program:
    """What the compiler must know: hashable, one compilation each (and each shape).

    Each lane follows one of the `objectives`; all are computed, which costs nothing beside the forward pass. `remat`
    is what the backward pass computes again instead of keeping it (`models.decoder.Remat`).
    """

    config: DecoderConfig
    cut: Cut
    objectives: tuple[Objective, ...]
    optim: OptimConfig
    dropout: float = 0.0
    remat: Remat = "none"


@struct.dataclass
class Lane:
    """One adapter in training, in the dtype of `OptimConfig.state`. Mapped, leaves have a leading axis of N lanes.

    `memory` is the state of each objective of the program.
    """

    weights: AdapterWeights
    moments: adamw.Moments
    step: Int[Array, ""]
    memory: tuple[State, ...]


@struct.dataclass
class LaneSettings:
    """What may differ between the adapters of one batch, besides their rank, which is padded."""

    scale: Float[Array, ""]
    learning_rate: Float[Array, ""]
    total_steps: Int[Array, ""]
    seed: UInt32[Array, ""]
    objective: Int[Array, ""]
    data: Int[Array, ""]


@struct.dataclass
class Metrics:
    """Of one step's samples, before its update.

    Attributes:
      objective: the loss that is differentiated, nats.
      loss: mean nats per answer token.
      accuracy: share of answer tokens that are the arg-max.
      above_half: share of answer tokens with p > ½.
      exact_match: share of samples with every arg-max right.
      active: share of the trained tokens with a weight above zero.
      gradient_norm: of the adapter's gradient, before any clip.
    """

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    above_half: Float[Array, ""]
    exact_match: Float[Array, ""]
    active: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def new_lane(program: Program, weights: AdapterWeights, samples: int, batch: int) -> Lane:
    """A lane at step 0, for a data set of `samples` read `batch` at a time."""
    weights, moments = adamw.init(program.optim.state, weights)
    memory = tuple(
        objective.init(samples if objective.state_of == "sample" else batch) for objective in program.objectives
    )
    return Lane(weights=weights, moments=moments, step=jnp.zeros((), jnp.int32), memory=memory)


def train_step(
    program: Program, lane: Lane, settings: LaneSettings, upper: Upper, batch: Batch
) -> tuple[Lane, Metrics]:
    """One step of AdamW on the lane's objective; a lane whose steps are spent stays as it is."""
    batch = batch.within(upper.head.shape[-1])
    dropout = None
    if program.dropout:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), DROPOUT_STREAM), lane.step)
        dropout = Dropout(key=key, rate=program.dropout)

    def objective(weights: AdapterWeights) -> tuple[Array, tuple[TokenScores, Array, tuple[State, ...]]]:
        scores = score(program.config, program.cut, upper, batch, weights, settings.scale, dropout, program.remat)
        token_weights, memory = _weigh(program, lane.memory, settings.objective, scores, batch)
        return weighted_loss(scores.nats, token_weights), (scores, token_weights, memory)

    (value, (scores, token_weights, memory)), gradient = jax.value_and_grad(objective, has_aux=True)(lane.weights)
    rate = program.optim.rate(settings.learning_rate, lane.step, settings.total_steps)
    weights, moments = adamw.update(program.optim, gradient, lane.moments, lane.weights, rate)
    if any(kind.skips for kind in program.objectives):
        skips = jnp.array([kind.skips for kind in program.objectives])[settings.objective]
        take = ~skips | (token_weights.sum() > 0)
        weights, moments = _choose(take, (weights, moments), (lane.weights, lane.moments))
    stepped = Lane(weights=weights, moments=moments, step=lane.step + 1, memory=memory)
    metrics = _metrics(value, scores, token_weights, gradient, batch)
    return _choose(lane.step < settings.total_steps, stepped, lane), metrics


def _weigh(
    program: Program, memory: tuple[State, ...], chosen: Int[Array, ""], scores: TokenScores, batch: Batch
) -> tuple[Float[Array, "B A"], tuple[State, ...]]:
    """Token weights of the chosen objective, and the memory of all of them."""
    weights, after = [], []
    for objective, state in zip(program.objectives, memory, strict=True):
        per_sample = objective.state_of == "sample"
        rows = jax.tree.map(lambda leaf: leaf[batch.rows], state) if per_sample else state
        weight, new = objective.weights(scores, batch.train_mask, rows)
        if per_sample:
            # an empty row, −1, is written nowhere
            new = jax.tree.map(
                lambda leaf, row: leaf.at[jnp.where(batch.rows < 0, len(leaf), batch.rows)].set(row, mode="drop"),
                state,
                new,
            )
        weights.append(weight)
        after.append(new)
    return weights[0] if len(weights) == 1 else jnp.stack(weights)[chosen], tuple(after)


def _metrics(
    value: Float[Array, ""], scores: TokenScores, weights: Float[Array, "B A"], gradient: AdapterWeights, batch: Batch
) -> Metrics:
    mask = batch.answer_mask
    counted, filled = jnp.maximum(mask.sum(), 1), mask.any(axis=-1)
    return Metrics(
        objective=value,
        loss=jnp.where(mask, scores.nats, 0.0).sum() / counted,
        accuracy=(mask & scores.right).sum() / counted,
        above_half=(mask & (scores.nats < LN2)).sum() / counted,
        exact_match=(filled & (scores.right | ~mask).all(axis=-1)).sum() / jnp.maximum(filled.sum(), 1),
        active=(weights > 0).sum() / jnp.maximum(batch.train_mask.sum(), 1),
        gradient_norm=optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)),
    )


def _choose(take: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(take, new, old), new, old)


def steps(
    program: Program,
    lanes: Lane,
    settings: LaneSettings,
    upper: Upper,
    data: DataSets,
    rows: Int[Array, "K N B"] | Int[Array, "K N 0"],
) -> tuple[Lane, Metrics]:
    """K steps of N lanes; metrics are `[K, N]`.

    `rows` picks each lane's samples at each step out of its own data set. With no columns every step reads all of it;
    the features then stay shared between the lanes, so that their first product is one GEMM.
    """
    whole = rows.shape[-1] == 0

    def one(lane: Lane, setting: LaneSettings, picked: Int[Array, " B"]) -> tuple[Lane, Metrics]:
        batch = data.whole(setting.data) if whole else data.pick(setting.data, picked)
        return train_step(program, lane, setting, upper, batch)

    def step(lanes: Lane, picked: Int[Array, "N B"]) -> tuple[Lane, Metrics]:
        return jax.vmap(one)(lanes, settings, picked)

    return jax.lax.scan(step, lanes, rows)


@functools.partial(jax.jit, static_argnames=("program", "mesh"), donate_argnames="lanes")
def run_steps(
    program: Program,
    lanes: Lane,
    settings: LaneSettings,
    upper: Upper,
    data: DataSets,
    rows: Int[Array, "K N B"] | Int[Array, "K N 0"],
    mesh: Mesh | None = None,
) -> tuple[Lane, Metrics]:
    """`steps` in one dispatch, over a mesh or on one device; the lanes that go in are used up."""
    arguments = lanes, settings, upper, data, rows
    if mesh is None:
        return steps(program, *arguments)
    split, whole = PartitionSpec(RULES["lanes"]), PartitionSpec()
    stacked = PartitionSpec(None, RULES["lanes"])
    ins = split, split, upper_shardings(mesh, upper), whole, stacked
    return over(mesh, functools.partial(steps, program), ins, (split, stacked), RULES["lanes"])(*arguments)
