"""Causal attention in plain XLA: blocks of queries against the keys that they can see, the weights never kept.

The backward pass computes a block's weights again from what its softmax summed to (Dao et al. 2022, FlashAttention,
section 3.1), so that no array of all queries by all keys outlives a block, and what causality hides is mostly skipped.
Here a block is `[K, R, d]`: `R` rows, the block's queries of all heads that share keys and values, group by group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int

from memlaw_jax.sharding import platform

# A CPU wants a block's scores in its cache; an accelerator wants large products until memory runs short: 2048 tokens
# squared are 16 MiB a head.
CPU_BLOCK = 64
CPU_WHOLE_TOKENS = 384  # up to here blocks save a CPU nothing, and take longer to compile
WHOLE_TOKENS = 2048
LONG_BLOCK = 128
# Blocks of one span share a number of keys and a loop. More spans skip more hidden keys (four compute 5/8 of the
# square, eight 9/16) and take longer to compile.
SPANS = 4


class Span(NamedTuple):
    """Blocks `first … last − 1` and the keys `low … high − 1` that one of them sees."""

    first: int
    last: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How `tokens` queries fall into `count` blocks of `size`; the last may be filled up with queries that are none."""

    tokens: int
    size: int
    window: int | None

    @classmethod
    def of(cls, tokens: int, size: int, window: int | None) -> Blocks:
        """Even blocks of about `size` tokens or fewer."""
        count = -(-tokens // size)
        even = -(-tokens // count)
        return cls(tokens=tokens, size=even if count == 1 else -(-even // 8) * 8, window=window)

    @property
    def count(self) -> int:
        """The number of blocks."""
        return -(-self.tokens // self.size)

    def spans(self) -> Iterator[Span]:
        """All blocks, in at most `SPANS` spans."""
        each = math.ceil(self.count / SPANS)
        for first in range(0, self.count, each):
            last = min(first + each, self.count)
            low = 0 if self.window is None else max(0, first * self.size - self.window + 1)
            yield Span(first, last, low, min(last * self.size, self.tokens))


def in_reach(distance: Int[Array, "*B"], window: int | None) -> Bool[Array, "*B"]:
    """Whether a key so many tokens before the query is one that it sees."""
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def on_one_device() -> bool:
    """Whether what is traced here runs on one device: there is no other, or it stands in a `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else mesh.size == 1 or mesh.are_all_axes_manual


def block_size(tokens: int) -> int:
    """Queries in a block on this platform; all of them where the scores of all are no burden."""
    if platform() == "cpu":
        return tokens if tokens <= CPU_WHOLE_TOKENS else CPU_BLOCK
    return tokens if tokens <= WHOLE_TOKENS else LONG_BLOCK


def attend_blocked(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    valid: Bool[Array, "B T"] | None,
    window: int | None,
    size: int,
) -> Float[Array, "B T H d"]:
    """`attention.attend` with `size` queries at a time. Scores and softmax are float32; gradients are first-order."""
    return _attend(Blocks.of(q.shape[1], size, window), q, k, v, valid)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(blocks: Blocks, q: Array, k: Array, v: Array, valid: Array | None) -> Array:
    return _forward(blocks, q, k, v, valid)[0]


def _forward(blocks: Blocks, q: Array, k: Array, v: Array, valid: Array | None) -> tuple[Array, tuple]:
    out, total = _over_rows(blocks, _forward_row)(
        _split(blocks, q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2), valid
    )
    out = _join(out, q)
    return out, (q, k, v, valid, out, total)


def _backward(blocks: Blocks, kept: tuple, grad: Array) -> tuple:
    q, k, v, valid, out, total = kept
    heads_first, groups = partial(_split, blocks, groups=k.shape[2]), k.swapaxes(1, 2)
    # Σ over keys of weight · d(weight), which the softmax takes off, is the product of the output and its gradient.
    common = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    dq, dk, dv = _over_rows(blocks, _backward_row)(
        heads_first(q), groups, v.swapaxes(1, 2), valid, heads_first(grad), total, heads_first(common)
    )
    return _join(dq, q), dk.swapaxes(1, 2), dv.swapaxes(1, 2), None


_attend.defvjp(_forward, _backward)


def _split(blocks: Blocks, x: Float[Array, "B T H d"], groups: int) -> Float[Array, "B n K R d"]:
    """Heads first, in blocks of tokens: then every product is a plain batched GEMM."""
    batch, tokens, heads, width = x.shape
    x = jnp.pad(x, ((0, 0), (0, blocks.count * blocks.size - tokens), (0, 0), (0, 0)))
    x = x.reshape(batch, blocks.count, blocks.size, groups, heads // groups, width)
    return x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, blocks.count, groups, -1, width)


def _join(x: Float[Array, "B n K R d"], like: Float[Array, "B T H d"]) -> Float[Array, "B T H d"]:
    """Undoes `_split`."""
    batch, tokens, heads, width = like.shape
    count, groups = x.shape[1:3]
    x = x.reshape(batch, count, groups, heads // groups, -1, width).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(batch, -1, heads, width)[:, :tokens]


def _over_rows(blocks: Blocks, row: Callable) -> Callable:
    """`row` for a batch of rows, at once or, on a CPU, one after the other, whatever is mapped around it.

    One row's blocks stay in the cache, which makes training up to three times as fast. A loop over lanes that are
    spread over devices would gather them, so it is for one device alone; and short rows are not worth one.
    """
    one = partial(row, blocks)
    loop = blocks.count > 1 and platform() == "cpu" and on_one_device()
    return jax.vmap(sequential_vmap(one) if loop else one)


def _scores(
    blocks: Blocks, span: Span, index: Any, rows: Float[Array, "K R d"], keys: Float[Array, "K C d"],
    valid: Bool[Array, " T"] | None,
) -> tuple[Float[Array, "K R C"], Bool[Array, "R C"]]:  # fmt: skip
    """Float32 scores of block `index` and which of them count."""
    scores = jnp.einsum("kqd,ksd->kqs", rows, keys, preferred_element_type=jnp.float32)
    query = index * blocks.size + jnp.arange(rows.shape[1]) % blocks.size
    seen = in_reach(query[:, None] - jnp.arange(span.low, span.high), blocks.window)
    return scores, seen if valid is None else seen & valid[span.low : span.high]


def _forward_row(blocks: Blocks, q: Array, k: Array, v: Array, valid: Array | None) -> tuple[Array, Array]:
    """Output `[n, K, R, d]` and log-sum-exp of the scores `[n, K, R, 1]` of one row."""
    scale = q.shape[-1] ** -0.5
    found = []
    for span in blocks.spans():
        keys, values = k[:, span.low : span.high], v[:, span.low : span.high]

        def one(_: None, block: tuple, span: Span = span, keys: Array = keys, values: Array = values) -> tuple:
            index, rows = block
            scores, seen = _scores(blocks, span, index, rows * scale, keys, valid)
            # A row of padding may see nothing; a finite floor keeps it from becoming NaN.
            scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
            top = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = weights.sum(axis=-1, keepdims=True)
            mixed = jnp.einsum("kqs,ksd->kqd", weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
            return None, ((mixed / total).astype(q.dtype), top + jnp.log(total))

        found.append(_loop(one, None, (jnp.arange(span.first, span.last), q[span.first : span.last]))[1])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _backward_row(
    blocks: Blocks, q: Array, k: Array, v: Array, valid: Array | None, grad: Array, total: Array, common: Array
) -> tuple[Array, Array, Array]:
    """Gradients of one row's queries `[n, K, R, d]`, keys and values `[K, T, d]`; sums over blocks are float32."""
    scale = q.shape[-1] ** -0.5
    dq, dk, dv = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for span in blocks.spans():
        keys, values = k[:, span.low : span.high], v[:, span.low : span.high]

        def one(sums: tuple, block: tuple, span: Span = span, keys: Array = keys, values: Array = values) -> tuple:
            index, rows, grad, total, common = block
            scores, seen = _scores(blocks, span, index, rows * scale, keys, valid)
            weights = jnp.where(seen, jnp.exp(scores - total), 0)
            slope = jnp.einsum("kqd,ksd->kqs", grad, values, preferred_element_type=jnp.float32)
            slope = (weights * (slope - common)).astype(q.dtype)
            to_keys = partial(jnp.einsum, "kqs,kqd->ksd", preferred_element_type=jnp.float32)
            sums = sums[0] + to_keys(slope, rows * scale), sums[1] + to_keys(weights.astype(q.dtype), grad)
            to_rows = jnp.einsum("kqs,ksd->kqd", slope, keys, preferred_element_type=jnp.float32)
            return sums, (to_rows * scale).astype(q.dtype)

        inside = (jnp.arange(span.first, span.last), *(x[span.first : span.last] for x in (q, grad, total, common)))
        sums, rows = _loop(one, (dk[:, span.low : span.high], dv[:, span.low : span.high]), inside)
        dk, dv = dk.at[:, span.low : span.high].set(sums[0]), dv.at[:, span.low : span.high].set(sums[1])
        dq.append(rows)
    return jnp.concatenate(dq), dk.astype(k.dtype), dv.astype(v.dtype)


def _loop(step: Callable, carry: Any, blocks: Any) -> tuple[Any, Any]:
    """`lax.scan` over blocks; a single one needs no loop."""
    if jax.tree.leaves(blocks)[0].shape[0] > 1:
        return jax.lax.scan(step, carry, blocks)
    carry, found = step(carry, jax.tree.map(lambda x: x[0], blocks))
    return carry, jax.tree.map(lambda x: x[None], found)
