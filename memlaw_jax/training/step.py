"""The pure training step, for one adapter and, mapped, for many.

`train_step` is `(lane, settings, frozen weights, batch) -> (lane, metrics)`. Everything static sits in a `Program`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, UInt32

from memlaw_jax.models import Cut, DecoderConfig, Dropout, Upper
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.objectives import Objective, TokenScores, weighted_loss
from memlaw_jax.readout import Batch, score
from memlaw_jax.training import adamw
from memlaw_jax.training.optim import OptimConfig

DROPOUT_STREAM = 1 << 16  # apart from the streams of `init_adapter`, which counts its targets


@dataclass(frozen=True)
class Program:
    """What the compiler must know: hashable, one compilation each (and each shape)."""

    config: DecoderConfig
    cut: Cut
    objective: Objective
    optim: OptimConfig
    dropout: float = 0.0


@struct.dataclass
class Lane:
    """One adapter in training, in the dtype of `OptimConfig.state`. Mapped, leaves have a leading axis of N lanes."""

    weights: AdapterWeights
    moments: adamw.Moments
    step: Int[Array, ""]


@struct.dataclass
class LaneSettings:
    """What may differ between the adapters of one batch, besides their rank, which is padded."""

    scale: Float[Array, ""]
    learning_rate: Float[Array, ""]
    total_steps: Int[Array, ""]
    seed: UInt32[Array, ""]


@struct.dataclass
class Metrics:
    """Of one step, before its update: the objective and the mean loss in nats, and the share of arg-maxes right."""

    objective: Float[Array, ""]
    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def new_lane(program: Program, weights: AdapterWeights) -> Lane:
    """A lane at step 0."""
    weights, moments = adamw.init(program.optim.state, weights)
    return Lane(weights=weights, moments=moments, step=jnp.zeros((), jnp.int32))


def train_step(
    program: Program, lane: Lane, settings: LaneSettings, upper: Upper, batch: Batch
) -> tuple[Lane, Metrics]:
    """One step of AdamW on the objective; a lane whose steps are spent stays as it is."""
    dropout = None
    if program.dropout:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), DROPOUT_STREAM), lane.step)
        dropout = Dropout(key=key, rate=program.dropout)

    def objective(weights: AdapterWeights) -> tuple[Array, TokenScores]:
        scores = score(program.config, program.cut, upper, batch, weights, settings.scale, dropout)
        return weighted_loss(scores.nats, program.objective.weights(scores, batch.train_mask)), scores

    (value, scores), gradient = jax.value_and_grad(objective, has_aux=True)(lane.weights)
    rate = program.optim.rate(settings.learning_rate, lane.step, settings.total_steps)
    weights, moments = adamw.update(program.optim, gradient, lane.moments, lane.weights, rate)
    stepped = Lane(weights=weights, moments=moments, step=lane.step + 1)
    counted = jnp.maximum(batch.answer_mask.sum(), 1)
    metrics = Metrics(
        objective=value,
        loss=jnp.where(batch.answer_mask, scores.nats, 0.0).sum() / counted,
        accuracy=(batch.answer_mask & scores.right).sum() / counted,
        gradient_norm=optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)),
    )
    unspent = lane.step < settings.total_steps
    return jax.tree.map(lambda new, old: jnp.where(unspent, new, old), stepped, lane), metrics


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def run_steps(
    program: Program,
    lanes: Lane,
    settings: LaneSettings,
    upper: Upper,
    data: Batch,
    rows: Int[Array, "K N B"] | Int[Array, "K N 0"],
) -> tuple[Lane, Metrics]:
    """K steps of N lanes in one dispatch; metrics are `[K, N]`.

    `rows` picks each lane's samples at each step. With no columns every step reads all of `data`, whose features
    then stay shared between the lanes, so that their first product is one GEMM.
    """
    whole = rows.shape[-1] == 0

    def one(lane: Lane, setting: LaneSettings, picked: Int[Array, " B"]) -> tuple[Lane, Metrics]:
        return train_step(program, lane, setting, upper, data if whole else data.pick(picked))

    def step(lanes: Lane, picked: Int[Array, "N B"]) -> tuple[Lane, Metrics]:
        return jax.vmap(one)(lanes, settings, picked)

    return jax.lax.scan(step, lanes, rows)
