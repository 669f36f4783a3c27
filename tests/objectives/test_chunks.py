"""The head some tokens at a time: the numbers of the whole, under every transformation that the trainer uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from memlaw_jax.objectives import OBJECTIVES, TokenScores, token_loss, token_scores, weighted_loss

from .plain_head import exact, plain_scores, random_case

pytestmark = pytest.mark.usefixtures("quick_compiler")

TOKENS, WIDTH, VOCABULARY = (3, 6), 5, 37  # 18 tokens of an adapter
ADAPTERS = 4
SetChunk = Callable[[int], None]


@pytest.fixture
def set_chunk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetChunk]:
    """Sets how many tokens' logits are held at once; JAX keeps what it traced with another number, hence the caches."""

    def set_to(tokens: int) -> None:
        monkeypatch.setattr(token_loss, "CHUNK_TOKENS", {jax.default_backend(): tokens})
        jax.clear_caches()

    yield set_to
    jax.clear_caches()


def with_gradient(scores: Callable[..., TokenScores]) -> Callable[..., Any]:
    """`((weighted sum, scores), gradient)`."""

    def total(hidden: jax.Array, head: jax.Array, labels: jax.Array, weights: jax.Array) -> Any:
        found = scores(hidden, head, labels)
        return (weights * found.nats).sum(), found

    return jax.value_and_grad(total, has_aux=True)


plain_step = jax.jit(with_gradient(plain_scores))


def weights_of(labels: np.ndarray) -> np.ndarray:
    return np.linspace(0.1, 1, labels.size).reshape(labels.shape).astype(np.float32)


def loops(function: Callable[..., Any], *arguments: Any) -> int:
    text = str(jax.make_jaxpr(function)(*arguments))
    return text.count("scan[") + text.count("while[")


# 18 tokens: in one piece, in 2 × 9, in 3 × 6, in 4 × 5 of which two overlap, one by one.
@pytest.mark.parametrize("chunk", [18, 10, 7, 5, 1])
def test_losses_and_gradient_are_those_of_float64_whatever_the_chunk(chunk: int, set_chunk: SetChunk) -> None:
    set_chunk(chunk)
    hidden, head, labels = random_case(TOKENS, WIDTH, VOCABULARY)
    weights = weights_of(labels)
    function = with_gradient(token_scores)
    assert loops(function, hidden, head, labels, weights) == (chunk < 18)
    (_, found), gradient = jax.jit(function)(hidden, head, labels, weights)
    nats, slopes = exact(hidden, head, labels)
    np.testing.assert_allclose(found.nats, nats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, weights[..., None] * slopes, rtol=1e-5, atol=1e-5)
    plain, plain_gradient = plain_step(hidden, head, labels, weights)
    np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.right, plain[1].right)
    np.testing.assert_allclose(found.probability, np.exp(-nats), rtol=1e-5)
    assert 0 < np.asarray(found.right).sum() < labels.size
    # Verification takes another way, without a gradient.
    checked = jax.jit(lambda *case: token_scores(*case))(hidden, head, labels)
    np.testing.assert_allclose(checked.nats, found.nats, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(checked.right, found.right)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_small_model_dtype_costs_its_last_digit_alone(dtype: Any, set_chunk: SetChunk) -> None:
    set_chunk(7)
    hidden, head, labels = random_case(TOKENS, 32, VOCABULARY, dtype)
    hidden = hidden * jnp.asarray([0.25, 0.5, 1, 2, 4, 6], dtype)[:, None]
    (_, found), gradient = jax.jit(with_gradient(token_scores))(hidden, head, labels, np.ones(TOKENS, np.float32))
    assert gradient.dtype == hidden.dtype and found.nats.dtype == jnp.float32
    nats, slopes = exact(hidden, head, labels)
    np.testing.assert_allclose(found.nats, nats, rtol=1e-5, atol=1e-5)  # sums of 32 products in float32
    # The shares, the pull and the product are each rounded once, by eps / 2: a token's gradient keeps its length and
    # direction to 2 eps, however small it is; float16 rounds to multiples of 6e-8 besides.
    error = np.linalg.norm(np.asarray(gradient, np.float64) - slopes, axis=-1)
    length = np.linalg.norm(slopes, axis=-1)
    assert length.min() < 1e-4 < 1 < length.max()
    assert (error <= 2 * float(jnp.finfo(dtype).eps) * length + (1e-7 if dtype == jnp.float16 else 0)).all()


small_step = jax.jit(with_gradient(token_scores))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("behind", [12.0, 16.0, 40.0])
def test_a_small_loss_keeps_the_digits_of_its_gradient(behind: float, dtype: Any) -> None:
    """Of p = 1 − 6e-5, 1 − 1e-6 and 1 − 4e-17: the last is 1 in float32, and all are in float16 or bfloat16."""
    head = jnp.asarray([[behind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, *range(-5, 5)]], dtype)
    hidden, label = jnp.asarray([[1, 0]], dtype), np.zeros(1, np.int32)
    nats, slopes = exact(hidden, head, label)
    # Weighed as if by a loss scale, since float16 holds nothing below 6e-8.
    (_, found), gradient = small_step(hidden, head, label, (1 / nats).astype(np.float32))
    np.testing.assert_allclose(found.nats, nats, rtol=1e-6)
    # The shares, the pull and the product are each rounded once, and the sums between them.
    np.testing.assert_allclose(np.asarray(gradient, np.float64), slopes / nats[0], rtol=4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_a_model_blown_up_has_no_finite_loss_and_is_never_right(poison: float, set_chunk: SetChunk) -> None:
    """3e38 is finite, its logits are not. The other tokens of the chunk stay as they are."""
    set_chunk(9)
    hidden, head, labels = random_case(TOKENS, WIDTH, VOCABULARY)
    step, weights = jax.jit(with_gradient(token_scores)), weights_of(labels)
    (_, found), gradient = step(hidden.at[1, 2].set(poison), 2 * head, labels, weights)
    assert not np.isfinite(found.nats[1, 2]) and not found.right[1, 2]
    assert not np.isfinite(gradient[1, 2]).all()
    (_, known), kept = step(hidden, 2 * head, labels, weights)
    others = np.ones(TOKENS, bool)
    others[1, 2] = False
    np.testing.assert_array_equal(np.asarray(found.nats)[others], np.asarray(known.nats)[others])
    np.testing.assert_array_equal(np.asarray(gradient)[others], np.asarray(kept)[others])


def adapters(seed: int = 0) -> Any:
    return random_case((ADAPTERS, *TOKENS), WIDTH, VOCABULARY, seed=seed)


@pytest.mark.parametrize(
    "mapped, chunk",
    [("both", 72), ("both", 20), ("both", 2), ("hidden", 20), ("labels", 20), ("head", 5), ("all", 5)],
)
def test_mapped_over_adapters_each_has_its_own_numbers(mapped: str, chunk: int, set_chunk: SetChunk) -> None:
    set_chunk(chunk)
    hidden, head, labels = adapters()
    heads = jnp.stack([head * scale for scale in (0.5, 1, 1.5, 2)])
    axes = {
        "both": (0, None, 0),
        "hidden": (0, None, None),
        "labels": (None, None, 0),
        "head": (None, 0, None),
        "all": (0, 0, 0),
    }[mapped]
    case = tuple(
        whole if axis == 0 else one
        for axis, whole, one in zip(axes, (hidden, heads, labels), (hidden[0], head, labels[0]), strict=True)
    )
    weights = weights_of(labels)
    found = jax.jit(jax.vmap(with_gradient(token_scores), in_axes=(*axes, 0)))(*case, weights)
    for n in range(ADAPTERS):
        one = [leaf[n] if axis == 0 else leaf for axis, leaf in zip(axes, case, strict=True)]
        _close(jax.tree.map(lambda leaf, n=n: leaf[n], found), plain_step(*one, weights[n]))
    checked = jax.jit(jax.vmap(lambda *case: token_scores(*case), in_axes=axes))(*case)
    _close(checked, found[0][1])


def _close(found: Any, wanted: Any) -> None:
    # Softmax and a sum of 37 terms in float32, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


@pytest.mark.parametrize(
    "transform",
    [
        lambda step: jax.jit(jax.vmap(step)),
        lambda step: jax.vmap(jax.jit(step)),
        lambda step: lambda *case: jax.lax.scan(lambda _, one: (None, step(*one)), None, case)[1],
        lambda step: lambda *case: jax.lax.map(lambda one: step(*one), case, batch_size=2),
        lambda step: (
            lambda *case: jax.tree.map(
                lambda leaf: leaf.reshape(ADAPTERS, *leaf.shape[2:]),
                jax.jit(jax.vmap(jax.vmap(step)))(*(leaf.reshape(2, 2, *leaf.shape[1:]) for leaf in case)),
            )
        ),
    ],
    ids=["jit of vmap", "vmap of jit", "scan", "scan of vmap", "vmap of vmap"],
)
def test_transformations_change_nothing(transform: Callable[..., Any], set_chunk: SetChunk) -> None:
    set_chunk(16)
    hidden, head, labels = adapters()
    case = (hidden, labels, weights_of(labels))
    wanted = jax.jit(jax.vmap(with_gradient(plain_scores), in_axes=(0, None, 0, 0)))(hidden, head, *case[1:])
    step = with_gradient(token_scores)
    _close(transform(lambda hidden, labels, weights: step(hidden, head, labels, weights))(*case), wanted)
    again = with_gradient(jax.checkpoint(lambda *case: token_scores(*case)))
    _close(transform(lambda hidden, labels, weights: again(hidden, head, labels, weights))(*case), wanted)


@pytest.mark.parametrize("method", sorted(OBJECTIVES))
def test_every_objective_weighs_and_differentiates_it_alike(method: str, set_chunk: SetChunk) -> None:
    set_chunk(20)
    hidden, head, labels = adapters()
    objective = OBJECTIVES[method]()
    mask = np.random.default_rng(1).random(labels.shape) < 0.8

    def loss(scores: Callable[..., TokenScores]) -> Callable[..., Any]:
        def one(hidden: jax.Array, labels: jax.Array, mask: jax.Array) -> Any:
            found = scores(hidden, head, labels)
            weights, state = objective.weights(found, mask, objective.init(TOKENS[0]))
            return weighted_loss(found.nats, weights), (weights, state)

        return jax.jit(jax.vmap(jax.value_and_grad(one, has_aux=True)))

    found, wanted = loss(token_scores)(hidden, labels, mask), loss(plain_scores)(hidden, labels, mask)
    _close(found, wanted)
    assert (np.abs(np.asarray(found[1])).max(axis=(1, 2, 3)) > 1e-3).all()
    assert (np.asarray(found[1])[~mask] == 0).all()


def test_the_head_is_frozen() -> None:
    hidden, head, labels = random_case(TOKENS, WIDTH, VOCABULARY)
    gradient = jax.grad(lambda head: token_scores(hidden, head, labels).nats.sum())(head)
    np.testing.assert_array_equal(gradient, 0)


def head_products(jaxpr: Any, vocabulary: int) -> list[int]:
    """Rows of each product with the head in a program and in what it calls."""
    found = []
    for equation in jaxpr.eqns:
        shapes = [value.aval.shape for value in (*equation.invars, *equation.outvars) if hasattr(value, "aval")]
        if equation.primitive.name == "dot_general" and any(vocabulary in shape for shape in shapes):
            found.append(int(np.prod(shapes[-1])) // shapes[-1][-1])
        for inner in jaxprs_in_params(equation.params):
            found += head_products(inner, vocabulary)
    return found


@pytest.mark.parametrize("chunk, rows", [(1000, 72), (20, 20), (3, 4)])
def test_a_step_multiplies_by_the_head_twice_and_verification_once(chunk: int, rows: int, set_chunk: SetChunk) -> None:
    """All adapters in one product, of the tokens that the chunk allows, and at least one of each adapter."""
    set_chunk(chunk)
    hidden, head, labels = adapters()
    weights = weights_of(labels)
    axes = (0, None, 0)

    def products(scores: Callable[..., TokenScores]) -> tuple[list[int], list[int]]:
        step = jax.make_jaxpr(jax.vmap(with_gradient(scores), in_axes=(*axes, 0)))(hidden, head, labels, weights)
        check = jax.make_jaxpr(jax.vmap(lambda *case: scores(*case), in_axes=axes))(hidden, head, labels)
        return head_products(step.jaxpr, VOCABULARY), head_products(check.jaxpr, VOCABULARY)

    assert products(token_scores) == ([rows, rows], [rows])
    assert products(plain_scores) == ([72, 72], [72])
