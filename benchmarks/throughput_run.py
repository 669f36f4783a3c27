"""Runs the throughput benchmark: agreement first, then rounds that alternate the sides, one case after the other."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import torch
import transformers
from throughput_flops import needed, released
from throughput_machine import Mistake, matmul_peak, release_memory, told
from throughput_model import SCALES, Scale, make_cells, random_base, random_sequence, torch_twin
from throughput_sides import TORCH, Side, disagreement, dispatches
from throughput_table import peak, summarise, table, target_lines, targets

from memlaw_jax.models import Base

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BUSY = 0.9  # share of a core below which a wall clock measures other people's work too


def run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    """0, or 1 where the sides disagreed or something else than memory failed."""
    scale, began = _scale(given), time.perf_counter()
    if (
        given.scale == "8b"
        and given.device == "auto"
        and not (jax.default_backend() == "gpu" and torch.cuda.is_available())
    ):
        raise Mistake("--scale 8b needs a GPU that both JAX and torch see; install both for CUDA, or use --scale cpu.")
    torch.set_num_threads(1 if jax.default_backend() == "cpu" else torch.get_num_threads())
    transformers.utils.logging.set_verbosity_error()
    place = given.out / "throughput.json"
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"cannot write to {given.out}: {error.strerror}; choose another --out.") from None
    found = told("throughput.py", arguments) | {
        "scale": given.scale,
        "model": asdict(scale.config),
        "dtype": scale.dtype,
        "adapter_dtype": "float32",
        "clock": given.clock,
        "tolerance": scale.tolerance[scale.dtype],
        "ranks": sorted(scale.ranks),
        "matmul": [matmul_peak(scale.dtype, CLOCKS[given.clock])],
        "cases": [],
    }
    ends = math.inf if scale.minutes is None else began + 60 * scale.minutes
    base, model = random_base(scale.config, scale.dtype), None
    for tokens in sorted(scale.tokens):
        if time.perf_counter() > ends:
            print(f"{tokens} tokens: left out, {scale.minutes} minutes are over", flush=True)
            continue
        if tokens > scale.alone:
            model = None  # makes room
            release_memory()
        elif model is None:
            model = torch_twin(base)
        case = measure(base, model, scale, tokens, ends, CLOCKS[given.clock])
        found["cases"].append(case)
        found["matmul"].append(matmul_peak(scale.dtype, CLOCKS[given.clock]))
        found["seconds"] = round(time.perf_counter() - began, 1)
        found["rows"] = [row for one in found["cases"] for row in summarise(one, peak(found))]
        found["targets"] = targets(found["cases"], peak(found), gpu=jax.default_backend() != "cpu")
        place.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(_words(case), flush=True)
    return _report(found, given.out)


def measure(
    base: Base, model: Any, scale: Scale, tokens: int, ends: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """One length of sequence: the check, then rounds until there are enough or the time is over."""
    sides = _sides(base, model, scale, tokens, clock)
    answers, layer = sides[0].encoded.answer_tokens, scale.config.paper_layer
    shape = {"layer": layer, "tokens": tokens, "answers": answers}
    for side in sides:
        ranks = [cell.lora.rank for cell in side.cells]
        useful = sum(needed(scale.config, rank=rank, **shape) for rank in ranks) / len(ranks)
        own = {
            "a": released(scale.config, layer=layer, rank=ranks[0], tokens=tokens),
            "c": needed(scale.config, rank=ranks[0], cached=False, **shape),
        }
        side.found |= {"flops_needed": useful, "flops_own": own.get(side.name, useful)}
    uncached = needed(scale.config, rank=sides[0].cells[0].lora.rank, cached=False, **shape)
    case: dict[str, Any] = {"tokens": tokens, "answers": answers, "flops_uncached": uncached}
    steps, _ = dispatches(scale.steps_of(tokens), 1, scale.least)
    losses = {f"{side.name}{len(side.cells)}": side.losses(steps) for side in sides}
    losses = {name: values for name, values in losses.items() if values is not None}
    if losses:
        case["loss"] = {name: [float(value) for value in values] for name, values in losses.items()}
        apart = disagreement(losses)
        case["agreement"] = {"steps": steps, "largest_relative_difference": apart}
        if max(apart.values()) > scale.tolerance[scale.dtype]:
            words = ", ".join(f"{name} {value:.1e}" for name, value in apart.items())
            case["disagrees"] = f"the losses differ (relative, from the first: {words}); nothing was timed"
    done = 0
    while "disagrees" not in case and done < scale.rounds and (done == 0 or time.perf_counter() < ends):
        for side in sides:
            side.measure()
        done += 1
        took = ", ".join(
            f"{side.name}×{len(side.cells)} {side.found['ms'][-1]:.4g} ms" for side in sides if not side.failed
        )
        print(f"{tokens} tokens, round {done} of {scale.rounds}: {took}", file=sys.stderr, flush=True)
    if "disagrees" not in case:
        for side in sides:
            side.measure_features()
    return case | {"rounds": done, "sides": [side.found for side in sides]}


def _sides(base: Base, model: Any, scale: Scale, tokens: int, clock: Callable[[], float]) -> list[Side]:
    """In the order in which a round goes through them."""
    encoded, steps = random_sequence(scale.config, tokens), scale.steps_of(tokens)
    names = [(name, 1) for name in ("a", "b", "c") if model is not None]
    counts = scale.adapters if model is not None else scale.adapters[-1:]
    sides = []
    for name, count in [*names, *(("d", count) for count in counts)]:
        sides.append(
            Side(
                name=name,
                base=base,
                encoded=encoded,
                cells=make_cells(scale.ranks, count),
                steps=steps,
                dispatch=dispatches(steps, count, scale.least)[1],
                model=model if name in TORCH else None,
                clock=clock,
            )
        )
    return sides


def _scale(given: argparse.Namespace) -> Scale:
    """The preset with what the command line says instead."""
    scale = SCALES[given.scale]
    change = {name: getattr(given, name) for name in ("dtype", "rounds", "minutes", "alone") if getattr(given, name)}
    for name in ("tokens", "adapters", "ranks"):
        if getattr(given, name):
            change[name] = tuple(sorted(set(getattr(given, name))))
    scale = replace(scale, **change)
    if given.steps:
        scale = replace(scale, steps={max(scale.tokens): given.steps})
    if max(scale.ranks) > scale.config.hidden_size:
        limit = scale.config.hidden_size
        raise Mistake(f"--ranks has {max(scale.ranks)}, but the model is only {limit} wide; use at most {limit}.")
    if max(scale.tokens) > scale.config.max_positions:
        raise Mistake(f"--tokens has {max(scale.tokens)}, more than the model's {scale.config.max_positions}.")
    return scale


def _words(case: dict[str, Any]) -> str:
    if "disagrees" in case:
        return f"{case['tokens']} tokens: {case['disagrees']}"
    parts = [
        f"{side['side']}×{side['adapters']} "
        + (side["failed"] if "failed" in side else f"{sorted(side['ms'])[len(side['ms']) // 2]:.4g} ms")
        for side in case["sides"]
    ]
    apart = max(case["agreement"]["largest_relative_difference"].values()) if "agreement" in case else math.nan
    return f"{case['tokens']} tokens (losses apart by {apart:.1e} at most): {', '.join(parts)}"


def _disturbed(found: dict[str, Any]) -> list[str]:
    """A warning where the sides had to share their core."""
    busy = [share for case in found["cases"] for side in case["sides"] for share in side["busy"]]
    if jax.default_backend() != "cpu" or not busy or min(busy) >= BUSY:
        return []
    counted = (
        "only a quiet machine's count" if found["clock"] == "wall" else "they were not waited for, but shared caches"
    )
    return [f"Other processes ran on this core (a side had {min(busy):.0%} of it at the least): {counted}.", ""]


def _report(found: dict[str, Any], out: Path) -> int:
    """The table, unless nothing agreed; the exit code."""
    cases, best = found["cases"], peak(found)
    wrong = [case for case in cases if "disagrees" in case]
    failed = [side for case in cases for side in case["sides"] if not side.get("failed", "out of").startswith("out of")]
    if not cases or len(wrong) == len(cases):
        print("error: the sides do not compute the same, so there is no table.", file=sys.stderr)
        return 1
    by = max(found["matmul"], key=lambda measured: max(measured.values()))
    words = [
        f"{found['hardware']}; {found['scale']}, {found['dtype']}; {found['date']}; `{found['command']}`",
        f"Best square product: {best / 1e9:,.1f} GFLOP/s, by {max(by, key=lambda name: by[name])}.",
        "",
        table(cases, best),
        *_disturbed(found),
        *target_lines(found["targets"]),
    ]
    text = "\n".join(words) + "\n"
    (out / "table.md").write_text(text)
    print(text)
    print(f"wrote {out / 'throughput.json'} and table.md")
    return 1 if wrong or failed else 0
