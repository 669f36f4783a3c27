"""Attention in blocks is attention: outputs and gradients, whatever is mapped, scanned or recomputed around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.models.attention import attend
from memlaw_jax.models.attention_blocked import LONG_BLOCK, Blocks, attend_blocked

pytestmark = pytest.mark.usefixtures("quick_compiler")

SAME = 1e-5  # of the largest number, or of inputs' unit scale: float32 sums in another order


def naive(q: Any, k: Any, v: Any, valid: Any = None, window: int | None = None) -> jax.Array:
    """The definition, with the weights of all queries and keys, differentiated by JAX."""
    tokens, per_group = q.shape[1], q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, per_group, axis=2).astype(jnp.float32) for x in (k, v))
    scores = jnp.einsum("bqhd,bshd->bhqs", q.astype(jnp.float32), k) * q.shape[-1] ** -0.5
    distance = np.arange(tokens)[:, None] - np.arange(tokens)
    seen = (distance >= 0) & (distance < (window or tokens))
    if valid is not None:
        seen = seen & valid[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.einsum("bhqs,bshd->bqhd", weights, v)


def draw(*shape: int, heads: int = 4, groups: int = 2, width: int = 16, dtype: Any = np.float32) -> list[np.ndarray]:
    """Queries, keys, values and what the output's gradient is, `[*shape, heads, width]`."""
    noise = np.random.default_rng(heads * groups + sum(shape))
    return [noise.standard_normal((*shape, n, width)).astype(dtype) for n in (heads, groups, groups, heads)]


def with_gradients(form: Any) -> Any:
    """`form`'s output and its gradients of queries, keys and values."""

    def run(q: Any, k: Any, v: Any, g: Any) -> Any:
        out, back = jax.vjp(form, q, k, v)
        return out, *back(g.astype(out.dtype))

    return run


def assert_same(found: Any, want: Any, within: float = SAME) -> None:
    for one, other in zip(found, want, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=within * max(1, np.abs(other).max()))


@pytest.mark.parametrize(
    "heads, groups, tokens, size, window",
    [
        (4, 2, 1, 64, None), (4, 1, 7, 64, 3), (3, 3, 66, 64, None), (2, 1, 70, 64, 40), (4, 2, 83, 8, None),
        (2, 2, 83, 8, 21), (2, 1, 30, 16, 1), (2, 1, 40, 40, 99),
    ],
)  # fmt: skip
def test_blocks_compute_the_definition(heads: int, groups: int, tokens: int, size: int, window: int | None) -> None:
    """One block, blocks without a loop and with one, the last one ragged; windows shorter and longer than a block."""
    x = draw(2, tokens, heads=heads, groups=groups)
    found = jax.jit(with_gradients(lambda q, k, v: attend_blocked(q, k, v, None, window, size)))(*x)
    assert_same(found, jax.jit(with_gradients(lambda q, k, v: naive(q, k, v, None, window)))(*x))


@pytest.mark.parametrize("tokens, size, window", [(1, 1, None), (500, 64, None), (10_000, 128, 4096), (129, 128, 5)])
def test_spans_hold_every_query_once_and_every_key_it_sees(tokens: int, size: int, window: int | None) -> None:
    blocks = Blocks.of(tokens, size, window)
    first = 0
    for span in blocks.spans():
        assert span.first == first < span.last
        first = span.last
        reach = tokens if window is None else window
        assert span.low <= max(0, span.first * blocks.size - reach + 1)
        assert span.high == min(tokens, span.last * blocks.size)
    assert first == blocks.count and blocks.count * blocks.size >= tokens
    assert blocks.size <= size + 7


def left_padded(tokens: int) -> np.ndarray:
    """Two rows, one with padding in front, which sees nothing."""
    return np.arange(tokens) >= np.array([[0], [tokens // 3]])


@pytest.mark.parametrize("tokens, window", [(20, 9), (70, None)])
def test_padding_is_not_seen_and_nothing_is_nan(tokens: int, window: int | None) -> None:
    q, k, v, g = draw(2, tokens)
    valid = left_padded(tokens)
    real = valid[..., None, None]
    want = jax.jit(with_gradients(lambda q, k, v: naive(q, k, v, valid, window)))(q, k, v, g * real)
    found = jax.jit(with_gradients(lambda q, k, v: attend(q, k, v, valid, window)))(q, k, v, g * real)
    assert all(np.isfinite(y).all() for y in found)
    assert_same((found[0] * real, *found[1:]), (want[0] * real, *want[1:]))
    spoilt = [np.where(real, y, 1e3).astype(np.float32) for y in (k, v)]
    kept = jax.jit(lambda q, k, v: attend(q, k, v, valid, window))(q, *spoilt)
    np.testing.assert_allclose(np.where(real, kept, 0), np.where(real, want[0], 0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("tokens", [24, 70])
@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 0, 0), (0, None, 0)])
def test_many_adapters_at_once(tokens: int, axes: tuple[int | None, ...]) -> None:
    """Mapped over adapters, or over what depends on one alone; gradients of what all share are sums."""
    x = draw(3, 2, tokens)
    given = [y if axis == 0 else y[0] for y, axis in zip(x, axes, strict=False)]

    def loss(form: Any) -> Any:
        def run(q: Any, k: Any, v: Any) -> Any:
            return jnp.sum(jax.vmap(form, in_axes=axes)(q, k, v) * x[3])

        return jax.jit(jax.grad(run, argnums=(0, 1, 2)))

    assert_same(loss(attend)(*given), loss(naive)(*given))


def test_inside_scan_and_checkpoint() -> None:
    """As in the trainer: a scan over layers, each of which may be computed again, mapped over adapters."""
    x = draw(2, 2, 70, heads=2, groups=2)

    def loss(form: Any) -> Any:
        def layer(q: Any, scale: Any) -> Any:
            return q + form(q * scale, q, q), None

        def deep(q: Any, g: Any) -> Any:
            return jnp.sum(jax.lax.scan(jax.checkpoint(layer), q, jnp.arange(1.0, 4.0))[0] * g)

        return jax.jit(jax.vmap(jax.grad(deep)))

    assert_same([loss(attend)(x[0], x[3])], [loss(naive)(x[0], x[3])])


def test_sixteen_bits() -> None:
    """Weights and their gradients are rounded to bfloat16 before the products: 2⁻⁸ a factor, a few of them."""
    x = [y.astype(jnp.bfloat16) for y in draw(2, 70)]
    found = jax.jit(with_gradients(attend))(*x)
    assert {y.dtype for y in found} == {jnp.dtype(jnp.bfloat16)}
    assert_same(found, jax.jit(with_gradients(naive))(*x), 2e-2)


def sizes(jaxpr: Any) -> set[int]:
    """Numbers of elements of all that a program computes, its loops and calls included."""
    found = {int(np.prod(out.aval.shape)) for equation in jaxpr.eqns for out in equation.outvars}
    return found.union(*map(sizes, inside(jaxpr)))


def inside(jaxpr: Any) -> Iterator[Any]:
    """The programs of loops and calls."""
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            value = getattr(value, "jaxpr", value)
            if hasattr(value, "eqns"):
                yield value


@pytest.mark.parametrize("window", [None, 4096])
def test_long_rows_never_meet_all_keys_at_once(window: int | None) -> None:
    tokens = 10_000
    wide, narrow = (jax.ShapeDtypeStruct((1, tokens, n, 8), jnp.float32) for n in (4, 2))
    run = with_gradients(lambda q, k, v: attend_blocked(q, k, v, None, window, LONG_BLOCK))
    largest = max(sizes(jax.make_jaxpr(run)(wide, narrow, narrow, wide).jaxpr))
    assert largest <= 4 * LONG_BLOCK * tokens
