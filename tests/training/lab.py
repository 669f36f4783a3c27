"""A small experiment that the training tests share, and the same training written a second time, the slow way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memlaw_jax.models import Base, DecoderConfig, LoraConfig, init_adapter, scaled
from memlaw_jax.models.decoder import embed, final_norm, head_kernel, run_layers
from memlaw_jax.tasks import Encoded, Sample, pad
from memlaw_jax.training import Cell, OptimConfig, Outcome, train_cells

LINEAR = ("q_proj", "down_proj")


def sequence(base: Base, tokens: int = 20) -> Encoded:
    """One sample of random ordinary tokens: a prompt, an answer, and a suffix that is trained but not counted."""
    rng = np.random.default_rng(0)
    draw = [int(token) for token in rng.integers(0, 95, 8 + tokens)]
    sample = Sample(key="one", prompt=tuple(draw[:8]), answer=tuple(draw[8:]), suffix=(96,))
    return pad([sample], pad_id=base.pad_id)


def book(base: Base, records: int = 7) -> Encoded:
    """Samples of unequal length, so that a mean over tokens is no mean over samples."""
    rng = np.random.default_rng(1)
    samples = []
    for i in range(records):
        prompt = tuple(int(token) for token in rng.integers(0, 95, 4))
        answer = tuple(int(token) for token in rng.integers(0, 95, 1 + i % 4))
        samples.append(Sample(key=str(i), prompt=prompt, answer=answer, suffix=(96,)))
    return pad(samples, pad_id=base.pad_id)


def cells(targets: tuple[str, ...] = ("mlp",)) -> list[Cell]:
    """Different in everything that the adapters of one batch may differ in: rank, seed, rate, alpha, initialisation."""
    settings: list[tuple[dict[str, Any], int, float]] = [
        ({"rank": 1}, 0, 1e-2),
        ({"rank": 3, "alpha": 6.0}, 1, 3e-3),
        ({"rank": 8, "alpha": 4.0, "init": "peft"}, 2, 2e-2),
        ({"rank": 2, "init": "rslora"}, 3, 1e-2),
        ({"rank": 8}, 4, 5e-3),
    ]
    return [
        Cell(lora=LoraConfig(targets=targets, **lora), seed=seed, learning_rate=rate, name=f"cell {seed}")
        for lora, seed, rate in settings
    ]


# A clip that bites at some steps and some lanes only, and a decay of the weights, so that both can go wrong.
OPTIM = OptimConfig(steps=20, clip=0.8, weight_decay=0.1)


def run(base: Base, encoded: Encoded, todo: Sequence[Cell], **options: Any) -> dict[str, Outcome]:
    """Outcomes by the cell's name."""
    settings: dict[str, Any] = {"optim": OPTIM, "steps_per_dispatch": 10, **options}
    return {outcome.cell.name: outcome for outcome in train_cells(base, encoded, todo, **settings)}


@dataclass(frozen=True)
class Reference:
    """What one adapter does when it is trained alone and nothing is cached, padded, batched or scanned.

    `seen` has the columns objective, loss, accuracy and gradient norm, one row a step.
    """

    seen: np.ndarray
    weights: Any


# Token weights [S, A] from nats, arg-max right and mask of all samples, and the batch's sample rows.
Weigh = Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[int]], np.ndarray]


def mean(nats: np.ndarray, right: np.ndarray, mask: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Plain SFT."""
    return mask.astype(np.float64)


def reference(
    base: Base,
    encoded: Encoded,
    cell: Cell,
    optim: OptimConfig,
    batches: Iterable[Sequence[int]],
    weigh: Weigh = mean,
    skips: bool = False,
) -> Reference:
    """A full forward pass of the whole model each step, a plain softmax, and AdamW in NumPy's float64.

    With `skips`, a step without any weight is not taken, though the schedule goes on.
    """
    batches = list(batches)
    weights = _numpy(init_adapter(base.config, cell.lora, jax.random.key(cell.seed)))
    first, second = (jax.tree.map(lambda leaf: np.zeros(leaf.shape), weights) for _ in range(2))
    rows, taken = [], 0
    frozen = base.config, cell.lora, base.params
    for step, batch in enumerate(batches):
        chosen = np.isin(np.arange(len(encoded.tokens)), batch)[:, None]
        trained, counted = encoded.train_mask & chosen, encoded.answer_mask & chosen
        nats, right = (np.asarray(found) for found in _scores(*frozen, weights, encoded_arrays(encoded)))
        token_weights = weigh(nats, right, trained, batch)
        total = token_weights.sum()
        value = (token_weights * nats).sum() / total if total else 0.0
        gradient = _numpy(_gradient(*frozen, weights, encoded_arrays(encoded), token_weights / (total or 1.0)))
        norm = np.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(gradient)))
        loss, accuracy = (nats * counted).sum() / counted.sum(), (right & counted).sum() / counted.sum()
        rows.append((value, loss, accuracy, norm))
        if skips and not total:
            continue
        taken += 1
        factor = 1.0 if optim.clip is None else min(1.0, optim.clip / max(norm, 1e-30))
        gradient = jax.tree.map(lambda leaf, factor=factor: leaf.astype(np.float64) * factor, gradient)
        first = jax.tree.map(lambda m, g: optim.beta1 * m + (1 - optim.beta1) * g, first, gradient)
        second = jax.tree.map(lambda v, g: optim.beta2 * v + (1 - optim.beta2) * g * g, second, gradient)
        rate = cell.learning_rate * (1 - step / len(batches))

        def moved(w: Any, m: Any, v: Any, rate: float = rate, count: int = taken) -> np.ndarray:
            direction = m / (1 - optim.beta1**count) / (np.sqrt(v / (1 - optim.beta2**count)) + optim.eps)
            return (w * (1 - rate * optim.weight_decay) - rate * direction).astype(np.float32)

        weights = jax.tree.map(moved, weights, first, second)
    return Reference(seen=np.array(rows), weights=_numpy(weights))


def encoded_arrays(encoded: Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return encoded.tokens, encoded.answer_index, encoded.labels


def whole_logits(config: DecoderConfig, lora: LoraConfig, params: Any, weights: Any, tokens: Any) -> jax.Array:
    """Logits of the uncut decoder, every layer of which has an adapter, most of them of zeros."""
    adapted = jnp.array(lora.adapted_layers(config))
    everywhere = jax.tree.map(
        lambda leaf: jnp.zeros((config.num_layers, *leaf.shape[1:])).at[adapted].set(leaf), scaled(weights, lora.scale)
    )
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = run_layers(config, params["layers"], embed(params, tokens), positions, None, everywhere)
    return final_norm(config, params["norm"], hidden) @ head_kernel(config, params)


def _answers(config: DecoderConfig, lora: LoraConfig, params: Any, weights: Any, arrays: Any) -> Any:
    tokens, index, labels = arrays
    logits = jnp.take_along_axis(whole_logits(config, lora, params, weights, tokens), index[..., None], axis=1)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0], logits


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(config: DecoderConfig, lora: LoraConfig, params: Any, weights: Any, arrays: Any) -> Any:
    nats, logits = _answers(config, lora, params, weights, arrays)
    return nats, logits.argmax(axis=-1) == arrays[-1]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(config: DecoderConfig, lora: LoraConfig, params: Any, weights: Any, arrays: Any, shares: Any) -> Any:
    return jax.grad(lambda weights: (shares * _answers(config, lora, params, weights, arrays)[0]).sum())(weights)


def _numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def distance(one: Any, other: Any) -> float:
    """How far two trees of weights are apart, against their size."""
    pairs = list(zip(jax.tree.leaves(_numpy(one)), jax.tree.leaves(_numpy(other)), strict=True))
    apart = sum(float(((a - b).astype(np.float64) ** 2).sum()) for a, b in pairs)
    return float(np.sqrt(apart / sum(float((b.astype(np.float64) ** 2).sum()) for _, b in pairs)))
