"""An adapter taken apart into one pair of A and B a module, each at its own rank, and put together again.

Our stacks have one rank; other tools have one a module. What a stack lacks for that is zeros, which change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.models.lora import PATHS, AdapterWeights

Pair = tuple[Float[np.ndarray, "d_in R"], Float[np.ndarray, "R d_out"]]
Pairs = dict[tuple[int, str], Pair]


def split(adapter: Adapter) -> Pairs:
    """`{(layer, target): (A, B)}` in float32, without trailing columns of A and rows of B that are both zero.

    A module without any effect has rank 0 here. Scaling is not applied.

    Raises:
      UserError: weights that are not what the adapter's configuration says.
    """
    pairs: Pairs = {}
    for target in _ordered(adapter.lora.targets):
        stack = _stack(adapter, target)
        for index, layer in enumerate(adapter.layers):
            a, b = stack[0][index], stack[1][index]
            used = np.flatnonzero(a.any(axis=0) | b.any(axis=1))
            rank = int(used[-1]) + 1 if used.size else 0
            pairs[layer, target] = a[:, :rank], b[:rank]
    return pairs


def whole(adapter: Adapter) -> Pairs:
    """The same at the adapter's own rank, zeros and all."""
    return {
        (layer, target): (stack[0][index], stack[1][index])
        for target in _ordered(adapter.lora.targets)
        for stack in [_stack(adapter, target)]
        for index, layer in enumerate(adapter.layers)
    }


def join(pairs: Pairs, lora: LoraConfig, base: Base) -> Adapter:
    """An adapter of `lora.rank`, in every layer that any pair names; what is missing is zero."""
    layers = sorted({layer for layer, _ in pairs})
    weights: AdapterWeights = {}
    for target in lora.targets:
        d_in, d_out = base.config.linear_shape(target)
        a = np.zeros((len(layers), d_in, lora.rank), np.float32)
        b = np.zeros((len(layers), lora.rank, d_out), np.float32)
        for index, layer in enumerate(layers):
            if (layer, target) in pairs:
                part = pairs[layer, target]
                a[index, :, : part[0].shape[1]], b[index, : part[1].shape[0]] = part
        module = weights
        for name in PATHS[target]:
            module = module.setdefault(name, {})
        module["a"], module["b"] = jnp.asarray(a), jnp.asarray(b)
    adapter = Adapter(
        lora=lora, layers=tuple(layers), weights=weights, model=base.name, model_fingerprint=base.fingerprint
    )
    adapter.check(base.config)
    return adapter


def targets_of(modules: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    """The targets among `(layer, target)`, in the order of `PATHS`."""
    return _ordered({target for _, target in modules})


def _ordered(targets: tuple[str, ...] | set[str]) -> tuple[str, ...]:
    return tuple(target for target in PATHS if target in targets)


def _stack(adapter: Adapter, target: str) -> tuple[np.ndarray, np.ndarray]:
    module = adapter.weights
    for name in PATHS[target]:
        module = module.get(name, {})
    if "a" not in module or "b" not in module:
        raise UserError(f"the adapter's configuration names {target}, but its weights lack it.")
    a, b = (np.asarray(module[part], np.float32) for part in "ab")
    layers, rank = len(adapter.layers), adapter.lora.rank
    if a.ndim != 3 or b.ndim != 3 or a.shape[::2] != (layers, rank) or b.shape[:2] != (layers, rank):
        raise UserError(f"the adapter's {target} does not have rank {rank} in {layers} layers.")
    return a, b
