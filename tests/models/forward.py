"""Compiled forward passes that the tests share, so that each shape is compiled once.

On a CPU they are compiled without LLVM's optimiser, which takes two thirds of the time and changes no arithmetic that
the tests are about; `Base.logits`, compiled as it ships, has tests of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from memlaw_jax.models import Cut, Decoder, DecoderConfig, LoraConfig, frozen_features, head_logits, run_upper
from memlaw_jax.models.cut import Upper
from memlaw_jax.models.decoder import embed, final_norm, head_kernel, run_layers
from memlaw_jax.models.lora import PATHS, AdapterWeights


def compiled(*static: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`jax.jit`, made at the first call: importing a test must not start JAX's backend."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def made() -> Callable[..., Any]:
            fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
            return jax.jit(function, static_argnums=static, compiler_options=fast)

        return functools.wraps(function)(lambda *args: made()(*args))

    return decorate


@compiled(0)
def _decode(config: DecoderConfig, params: Any, tokens: Any, positions: Any, valid: Any) -> jax.Array:
    return Decoder(config).apply({"params": params}, tokens, positions, valid)


@compiled(0, 2)
def _below(config: DecoderConfig, params: Any, cut: Cut, tokens: Any, positions: Any, valid: Any) -> Any:
    return frozen_features(config, params, cut, tokens, positions, valid)


@compiled(0, 2)
def _above(config: DecoderConfig, upper: Upper, cut: Cut, features: Any, positions: Any, lora: Any, valid: Any) -> Any:
    return head_logits(upper.head, run_upper(config, upper, cut, features, positions, lora, valid))


def counted(tokens: np.ndarray) -> np.ndarray:
    """Positions 0, 1, 2, … in every row."""
    return np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)


def decode(config: DecoderConfig, params: Any, tokens: np.ndarray, positions: Any = None, valid: Any = None) -> Any:
    """The whole decoder, no adapter. Without `valid`, every token is (one program serves both)."""
    positions = counted(tokens) if positions is None else positions
    return _decode(config, params, tokens, positions, np.ones(tokens.shape, bool) if valid is None else valid)


def below(config: DecoderConfig, params: Any, cut: Cut, tokens: Any, positions: Any, valid: Any = None) -> Any:
    """Frozen features."""
    return _below(config, params, cut, tokens, positions, np.ones(tokens.shape, bool) if valid is None else valid)


def above(
    config: DecoderConfig, upper: Upper, cut: Cut, features: Any, positions: Any, lora: Any, valid: Any = None
) -> Any:
    """Logits from frozen features."""
    valid = np.ones(positions.shape, bool) if valid is None else valid
    return _above(config, upper, cut, features, positions, lora, valid)


@compiled(0)
def stack(config: DecoderConfig, layers: Any, hidden: Any, positions: Any, lora: Any = None) -> jax.Array:
    """A stack of blocks alone."""
    return run_layers(config, layers, hidden, positions, None, lora)


@compiled(0)
def everywhere(config: DecoderConfig, params: Any, tokens: Any, positions: Any, lora: AdapterWeights) -> jax.Array:
    """The uncut decoder in one stack, with an adapter that has weights for every layer (alpha folded in)."""
    hidden = run_layers(config, params["layers"], embed(params, tokens), positions, None, lora)
    return head_logits(head_kernel(config, params), final_norm(config, params["norm"], hidden))


def random_adapter(config: DecoderConfig, lora: LoraConfig, seed: int) -> AdapterWeights:
    """An adapter as if trained: neither A nor B zero, its x·A·B about as large as its module's own output."""
    rng = np.random.default_rng(seed)
    weights: AdapterWeights = {}
    for target, path in PATHS.items():
        if target not in lora.targets:
            continue
        d_in, d_out = config.linear_shape(target)
        module, layers = weights, len(lora.adapted_layers(config))
        for name in path:
            module = module.setdefault(name, {})
        module["a"] = (rng.standard_normal((layers, d_in, lora.rank)) / np.sqrt(d_in)).astype(np.float32)
        module["b"] = (rng.standard_normal((layers, lora.rank, d_out)) / np.sqrt(lora.rank)).astype(np.float32)
    return weights


def leaf(tree: Any, target: str) -> Any:
    """The module of a LoRA target in an adapter or in a stack of frozen layers."""
    for name in PATHS[target]:
        tree = tree[name]
    return tree
