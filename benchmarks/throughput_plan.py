"""`--dry-run`: what the throughput benchmark would do, its arithmetic, seconds and memory. Nothing is trained."""

from __future__ import annotations

import argparse

from throughput_flops import needed, released
from throughput_machine import matmul_peak
from throughput_model import Scale
from throughput_run import chosen
from throughput_sides import BEFORE, CHECKED, DISPATCHES, dispatches
from throughput_table import SIDES

from memlaw_jax.models import Cut, DecoderConfig, LoraConfig
from memlaw_jax.training.buckets import rounded
from memlaw_jax.training.memory import kept_bytes

HALF = 0.5  # of the matmul peak, which a step is reckoned to reach
BYTES = {"float32": 4, "bfloat16": 2}


def plan(given: argparse.Namespace) -> str:
    """The sides, then a line a length and side, then the sums."""
    scale = chosen(given)
    counts = ", ".join(map(str, scale.adapters))
    lines = [f"{given.scale}, {scale.dtype}, {scale.rounds} rounds; d with {counts} adapters. Sides:"]
    lines += [f"- {name}: {words}" for name, words in SIDES.items()]
    lines += ["", "| tokens | side | adapters | steps of each | GFLOP per adapter-step |", f"|{'---|' * 5}"]
    total = 0.0
    for tokens in scale.tokens:
        for name, adapters in _sides(scale, tokens):
            flops, steps = _step(scale, name, tokens), _steps(scale, name, tokens, adapters)
            lines.append(f"| {tokens} | {name} | {adapters} | {steps} | {flops / 1e9:,.1f} |")
            total += flops * steps * adapters
    return "\n".join([*lines, "", _seconds(given, scale, total), _memory(scale), "Nothing was trained or timed."])


def _sides(scale: Scale, tokens: int) -> list[tuple[str, int]]:
    if tokens > scale.alone:
        return [("d", scale.adapters[-1])]
    return [("a", 1), ("b", 1), ("c", 1), *(("d", count) for count in scale.adapters)]


def _step(scale: Scale, name: str, tokens: int) -> float:
    """FLOPs that a side makes for a step of one adapter."""
    shape = {"layer": scale.config.paper_layer, "rank": max(scale.ranks), "tokens": tokens}
    if name == "a":
        return released(scale.config, **shape)
    return needed(scale.config, answers=tokens, cached=name != "c", **shape)


def _steps(scale: Scale, name: str, tokens: int, adapters: int) -> int:
    """Steps of each adapter, those of the check included."""
    steps = scale.steps_of(tokens)
    checked, _ = dispatches(steps, 1, scale.least)
    dispatch = dispatches(steps, adapters, scale.least)[1]
    a_round = {"a": 2 * BEFORE + steps, "b": 2 * BEFORE + steps, "c": 1 + max(DISPATCHES, steps)}
    return max(checked, CHECKED) + scale.rounds * a_round.get(name, (1 + DISPATCHES) * dispatch)


def _seconds(given: argparse.Namespace, scale: Scale, flops: float) -> str:
    said = f"{flops / 1e12:,.1f} TFLOP in all"
    if given.scale == "paper":
        return f"{said}; on the GPU the limit is {scale.minutes:g} minutes, most of them compilation."
    best = max(matmul_peak(scale.dtype).values())
    return (
        f"{said}: about {flops / best / HALF:,.0f} seconds here, at half of the {best / 1e9:,.0f} GFLOP/s of a square "
        "product, and compilation."
    )


def _memory(scale: Scale) -> str:
    size = BYTES[scale.dtype] * weights(scale.config)
    cut = Cut.of(scale.config, LoraConfig())
    most = max(rounded(tokens) * _sides(scale, tokens)[-1][1] for tokens in scale.tokens)
    least, all_kept = (kept_bytes(scale.config, cut, scale.dtype, most, kind) for kind in ("blocks", "none"))
    return (
        f"Memory: weights of {size / 1e9:,.2f} GB, up to three times (JAX, torch, and c's own copy of its blocks); "
        f"a step of d with the most tokens keeps {least / 1e9:,.2f} GB (blocks computed again) to "
        f"{all_kept / 1e9:,.2f} GB (nothing), whichever fits."
    )


def weights(config: DecoderConfig) -> int:
    """Parameters of the frozen model, norms left out."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    block = config.hidden_size * (heads + 3 * config.intermediate_size)
    tables = 1 if config.tie_word_embeddings else 2
    return config.num_layers * block + tables * config.vocab_size * config.hidden_size
