"""Per-token losses of a frozen head: what every objective and every metric needs, and nothing else.

The logits are never held together: some tokens' at a time become losses and, where a gradient is wanted, gradients in
the hidden state at once. So a step multiplies by the head twice, verification once. The idea is Liger Kernel's
(Hsu et al. 2024, arXiv:2410.10989), which must hold a gradient of the head as well; here the head is frozen.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from memlaw_jax.sharding import platform, shares, split

# Tokens whose logits, float32, are held at once. On a CPU 256 is the fastest, as their passes then stay near its
# caches. An accelerator reads the head once a chunk, and some 300 tokens of each device must share that reading for
# arithmetic to be what takes the time; at V = 152k these are 1.2 GB of logits.
CHUNK_TOKENS = {"cpu": 256}
CHUNK_TOKENS_ELSEWHERE = 2048


@struct.dataclass
class TokenScores:
    """For each answer token: its loss −ln p in nats (float32), and whether it is the arg-max."""

    nats: Float[Array, "*B A"]
    right: Bool[Array, "*B A"]

    @property
    def probability(self) -> Float[Array, "*B A"]:
        """p of each target token, from 0 to 1."""
        return jnp.exp(-self.nats)


def token_scores(hidden: Float[Array, "*B A D"], head: Float[Array, "D V"], labels: Int[Array, "*B A"]) -> TokenScores:
    """Scores labels under the head's softmax, in float32; differentiable in `hidden` alone, once, in reverse.

    The head is frozen: its gradient is zero, whatever it is asked for. `hidden` is normalised and gathered at the
    answer's positions. Under `vmap` the adapters share each product with the head and the memory of a chunk; `hidden`
    and `labels` may be split over devices along the mapped axis.

    Ties count as right when the label is the first of the largest, as greedy decoding with `argmax` breaks them. A
    label outside the vocabulary, such as −100, marks no token: it scores as some other label would, never as right,
    and belongs under a False mask.
    """
    shape, width = hidden.shape[:-1], hidden.shape[-1]
    parts = shares("samples", shape[0]) if len(shape) > 1 else 1  # a loop over tokens must not cross devices
    rows = parts, math.prod(shape) // parts
    hidden = split(hidden.reshape(*rows, width), "samples", None, None)
    nats, right = _scores(hidden, head.astype(hidden.dtype), labels.reshape(rows))
    return TokenScores(nats=nats.reshape(shape), right=right.reshape(shape))


class _Scored(NamedTuple):
    """Of the tokens of N adapters; `pull` is None where no gradient is wanted.

    dL/dhidden is (1 − p)·pull: the head's columns, averaged over the other tokens by their share of 1 − p, less the
    label's. Kept apart from 1 − p it is as precise for a token that is all but learnt as for any other.
    """

    nats: Float[Array, "*N T"]
    right: Bool[Array, "*N T"]
    pull: Float[Array, "*N T D"] | None


@jax.custom_vjp
def _scores(hidden: Float[Array, "*N T D"], head: Float[Array, "D V"], labels: Int[Array, "*N T"]) -> Any:
    return _without_pull(hidden, head, labels)[:2]


def _forward(hidden: Float[Array, "*N T D"], head: Float[Array, "D V"], labels: Int[Array, "*N T"]) -> Any:
    nats, right, pull = _with_pull(hidden, head, labels)
    return (nats, right), (nats, pull)


def _backward(kept: tuple[Float[Array, "*N T"], Float[Array, "*N T D"]], cotangents: Any) -> tuple[Array, None, None]:
    nats, pull = kept
    slope = cotangents[0] * -jnp.expm1(-nats)  # −expm1(−nats) is 1 − p, to the last digit
    return (slope[..., None] * pull.astype(jnp.float32)).astype(pull.dtype), None, None


_scores.defvjp(_forward, _backward)


def _chunked(wants_pull: bool, hidden: Float[Array, "*N T D"], head: Float[Array, "D V"], labels: Int[Array, "*N T"]):
    """A few tokens of every adapter at a time, so that adapters split over devices stay where they are."""
    tokens, lead = hidden.shape[-2], math.prod(hidden.shape[:-2])
    limit = CHUNK_TOKENS.get(platform(), CHUNK_TOKENS_ELSEWHERE)
    chunks = math.ceil(tokens / max(1, limit // lead))
    if chunks <= 1:
        return _chunk(wants_pull, hidden, head, labels)
    size, axis = math.ceil(tokens / chunks), hidden.ndim - 2

    def body(i: Array, scored: _Scored) -> _Scored:
        start = jnp.minimum(i * size, tokens - size)  # the last chunk repeats some tokens rather than pad
        here = [lax.dynamic_slice_in_dim(x, start, size, axis) for x in (hidden, labels)]
        part = _chunk(wants_pull, here[0], head, here[1])
        return jax.tree.map(lambda whole, new: lax.dynamic_update_slice_in_dim(whole, new, start, axis), scored, part)

    empty = _Scored(
        nats=jnp.zeros_like(labels, jnp.float32),
        right=jnp.zeros_like(labels, bool),
        pull=jnp.zeros_like(hidden) if wants_pull else None,
    )
    return lax.fori_loop(0, math.ceil(tokens / size), body, empty)


def _chunk(
    wants_pull: bool, hidden: Float[Array, "*N T D"], head: Float[Array, "D V"], labels: Int[Array, "*N T"]
) -> _Scored:
    last = hidden.ndim - 1
    logits = lax.dot_general(hidden, head, (((last,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    token = jnp.clip(labels, 0, logits.shape[-1] - 1)[..., None]
    index = lax.broadcasted_iota(jnp.int32, logits.shape, last)
    top = logits.max(axis=-1, keepdims=True)
    if shares("vocabulary", logits.shape[-1]) > 1:  # each device looks in its part; the compiler cannot split a gather
        own = jnp.where(index == token, logits, 0.0).sum(axis=-1, keepdims=True)
    else:
        own = jnp.take_along_axis(logits, token, axis=-1)
    behind = own - top  # 0 where the label is the largest
    # A loss near zero is what the rarer tokens' small terms add up to. Summed beside the label's term, 1, many of them
    # would round away, so that term is kept apart.
    others = jnp.where(index == token, 0.0, jnp.exp(logits - top)).sum(axis=-1, keepdims=True)
    nats = jnp.log1p(others + jnp.expm1(behind)) - behind
    # The largest before the label rather than the first of the largest: XLA vectorises a maximum on a CPU, and not
    # an argmax.
    before = jnp.where(index < token, logits, -jnp.inf).max(axis=-1, keepdims=True)
    right = (behind == 0) & (before < top) & (token == labels[..., None])
    pull = None
    if wants_pull:
        share = jnp.exp(logits - top) * (1 / jnp.maximum(others, jnp.finfo(jnp.float32).tiny))
        share = jnp.where(index == token, -1.0, share).astype(hidden.dtype)
        pull = lax.dot_general(share, head, (((last,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        pull = pull.astype(hidden.dtype)
    return _Scored(nats=nats[..., 0], right=right[..., 0], pull=pull)


def _mapped(wants_pull: bool) -> Any:
    """`_chunked`, where a mapped axis becomes more adapters."""
    function = jax.custom_batching.custom_vmap(functools.partial(_chunked, wants_pull))

    @function.def_vmap
    def rule(size: int, mapped: list[bool], hidden: Array, head: Array, labels: Array) -> tuple[_Scored, Any]:
        hidden, labels = (
            x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_mapped in ((hidden, mapped[0]), (labels, mapped[2]))
        )
        if mapped[1]:  # nothing to share
            scored = lax.map(lambda one: function(*one), (hidden, head, labels))
        else:
            scored = function(hidden, head, labels)
        return scored, jax.tree.map(lambda _: True, scored)

    return function


_without_pull, _with_pull = _mapped(False), _mapped(True)
