"""AdamW on bfloat16 weights and moments, rounding where PyTorch rounds: the arithmetic of the release.

Each of torch's tensor operations reads bfloat16, computes in float32 and rounds its result once. With 8 bits β₂ = 0.999
rounds away, so that the second moment practically never decays (PAPER.md, section 2). The roundings are explicit:
left to a compiler, a chain of bfloat16 operations is fused and rounded at its end only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, BFloat16, Float, Int

if TYPE_CHECKING:
    from memlaw_jax.training.optim import OptimConfig

CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


@struct.dataclass
class Moments:
    """Adam's moments, bfloat16, and the number of steps taken."""

    first: Any
    second: Any
    count: Int[Array, ""]


def init(weights: Any) -> Moments:
    """Zero moments for bfloat16 weights."""
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return Moments(first=zeros, second=zeros, count=jnp.zeros((), jnp.int32))


def update(
    optim: OptimConfig, gradient: Any, moments: Moments, weights: Any, rate: Float[Array, ""]
) -> tuple[Any, Moments]:
    """One step of torch.optim.AdamW after clip_grad_norm_; returns new weights and moments."""
    gradient = jax.tree.map(_wide, gradient)
    if optim.clip is not None:
        gradient = _clip(gradient, optim.clip)
    count = moments.count + 1
    correction = tuple(1 - beta ** count.astype(jnp.float32) for beta in (optim.beta1, optim.beta2))

    def one(weight: Any, first: Any, second: Any, grad: Any) -> tuple[Array, Array, Array]:
        weight, first, second = _wide(weight), _wide(first), _wide(second)
        if optim.weight_decay:
            weight = _round(weight * (1 - rate * optim.weight_decay))
        first = _round(first + (1 - optim.beta1) * (grad - first))
        second = _round(_round(optim.beta2 * second) + (1 - optim.beta2) * grad * grad)
        below = _round(_round(_round(jnp.sqrt(second)) / jnp.sqrt(correction[1])) + optim.eps)
        weight = _round(weight - rate / correction[0] * first / below)
        return weight.astype(jnp.bfloat16), first.astype(jnp.bfloat16), second.astype(jnp.bfloat16)

    done = jax.tree.map(one, weights, moments.first, moments.second, gradient)
    weights, first, second = jax.tree.transpose(jax.tree.structure(weights), None, done)
    return weights, Moments(first=first, second=second, count=count)


def _clip(gradient: Any, most: float) -> Any:
    """torch's clip: a norm a parameter (one layer's A or B), the norm of these, one factor; each of them rounded."""
    norms = [_round(jnp.sqrt((leaf * leaf).sum(axis=(-2, -1)))).ravel() for leaf in jax.tree.leaves(gradient)]
    total = _round(jnp.sqrt((jnp.concatenate(norms) ** 2).sum()))
    factor = jnp.minimum(_round(most / _round(total + CLIP_EPS)), 1.0)
    return jax.tree.map(lambda leaf: _round(leaf * factor), gradient)


def _round(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """To the nearest bfloat16, as float32; no compiler may leave it out."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _wide(x: BFloat16[Array, "*B"]) -> Float[Array, "*B"]:
    return _round(x.astype(jnp.float32))
