"""AdamW after a gradient-norm clip, with PyTorch's arithmetic, on float32 or on bfloat16 weights and moments.

Two things differ from optax's. The bias corrections 1 − β^t are exact: in float32, 1 − 0.999 is wrong by 3·10⁻⁵, which
the first steps of a training feel. And in bfloat16, the release's own dtype, each of torch's tensor operations computes
in float32 and rounds its result once; with 8 bits β₂ = 0.999 rounds away, so that the second moment practically never
decays (PAPER.md, section 2). The roundings are explicit, because a compiler fuses a chain of bfloat16 operations and
rounds at its end only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from memlaw_jax.training.optim import OptimConfig, State

CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


@struct.dataclass
class Moments:
    """Adam's moments, in the weights' dtype, and the number of steps taken."""

    first: Any
    second: Any
    count: Int[Array, ""]


def init(state: State, weights: Any) -> tuple[Any, Moments]:
    """Weights in the dtype of `state`, and their moments at step 0."""
    weights = jax.tree.map(lambda leaf: leaf.astype(state), weights)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return weights, Moments(first=zeros, second=zeros, count=jnp.zeros((), jnp.int32))


def update(
    optim: OptimConfig, gradient: Any, moments: Moments, weights: Any, rate: Float[Array, ""]
) -> tuple[Any, Moments]:
    """One step (Loshchilov & Hutter 2019): new weights and moments."""
    stored = _ROUNDED[optim.state]
    gradient = jax.tree.map(lambda leaf: stored(leaf.astype(jnp.float32)), gradient)
    if optim.clip is not None:
        gradient = _clip(gradient, optim.clip, stored)
    count = moments.count + 1
    corrections = tuple(_correction(beta, count) for beta in (optim.beta1, optim.beta2))
    # XLA may or may not make a product with rsqrt of a division by sqrt; behind a barrier every program divides.
    root = jax.lax.optimization_barrier(jnp.sqrt(corrections[1]))

    def one(weight: Array, first: Array, second: Array, grad: Array) -> tuple[Array, Array, Array]:
        dtype = weight.dtype
        weight, first, second = (leaf.astype(jnp.float32) for leaf in (weight, first, second))
        if optim.weight_decay:
            weight = stored(weight * (1 - rate * optim.weight_decay))
        first = stored(first + (1 - optim.beta1) * (grad - first))
        second = stored(stored(optim.beta2 * second) + (1 - optim.beta2) * grad * grad)
        below = stored(stored(stored(jnp.sqrt(second)) / root) + optim.eps)
        weight = stored(weight - rate / corrections[0] * first / below)
        return weight.astype(dtype), first.astype(dtype), second.astype(dtype)

    done = jax.tree.map(one, weights, moments.first, moments.second, gradient)
    weights, first, second = jax.tree.transpose(jax.tree.structure(weights), None, done)
    return weights, Moments(first=first, second=second, count=count)


def _correction(beta: float, count: Int[Array, ""]) -> Float[Array, ""]:
    """1 − β^count, to float32's own precision."""
    return -jnp.expm1(count.astype(jnp.float32) * (math.log(beta) if beta else -math.inf))


def _clip(gradient: Any, most: float, stored: Callable[[Array], Array]) -> Any:
    """torch's clip: a norm a parameter (one layer's A or B), the norm of these, one factor for all."""
    norms = [stored(jnp.sqrt((leaf * leaf).sum(axis=(-2, -1)))).ravel() for leaf in jax.tree.leaves(gradient)]
    total = stored(jnp.sqrt((jnp.concatenate(norms) ** 2).sum()))
    factor = jnp.minimum(stored(most / stored(total + CLIP_EPS)), 1.0)
    return jax.tree.map(lambda leaf: stored(leaf * factor), gradient)


# To the nearest number of the dtype, as float32; no compiler may leave it out.
_ROUNDED: dict[str, Callable[[Array], Array]] = {
    "float32": lambda x: x,
    "bfloat16": lambda x: jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7),
}
