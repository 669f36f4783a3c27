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
from throughput_sides import CHECKED, TORCH, Side, disagreement, dispatches
from throughput_table import peak, summarise, table, target_lines, targets

from memlaw_jax.models import Base

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BUSY = 0.9  # share of a core below which a wall clock measures other people's work too


def run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    """0, or 1 where the sides disagreed or something else than memory failed."""
    scale, began = chosen(given), time.perf_counter()
    gpu = jax.default_backend() != "cpu"
    if given.scale == "paper" and given.device == "auto" and not (gpu and torch.cuda.is_available()):
        raise Mistake(
            "--scale paper needs a GPU that both JAX and torch see; install both for CUDA, or use --scale embedded."
        )
    torch.set_num_threads(torch.get_num_threads() if gpu else 1)
    transformers.utils.logging.set_verbosity_error()
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
    for tokens in scale.tokens:
        if time.perf_counter() > ends:
            print(f"{tokens} tokens: left out, {scale.minutes:g} minutes are over", flush=True)
            continue
        if tokens > scale.alone:
            model = None  # makes room
            release_memory()
        elif model is None:
            model = torch_twin(base)
        earlier = found["cases"]

        def keep(case: dict[str, Any], earlier: list[dict[str, Any]] = earlier) -> None:
            found["cases"] = [*earlier, case]
            found["seconds"] = round(time.perf_counter() - began, 1)
            _write(found, given.out, gpu)

        case = measure(base, model, scale, tokens, ends, CLOCKS[given.clock], keep)
        found["matmul"].append(matmul_peak(scale.dtype, CLOCKS[given.clock]))
        keep(case)
        print(_words(case), flush=True)
    return _report(found, given.out)


def measure(
    base: Base,
    model: Any,
    scale: Scale,
    tokens: int,
    ends: float,
    clock: Callable[[], float] = time.perf_counter,
    keep: Callable[[dict[str, Any]], None] = lambda case: None,
) -> dict[str, Any]:
    """One length of sequence: the check, then rounds until there are enough or the time is over.

    `keep` is given what there is after the check and after each round.
    """
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
    losses = {}
    for side in sides:
        if time.perf_counter() > ends:
            side.leave_out(f"out of time: not begun, {scale.minutes:g} minutes are over")
        elif (values := side.losses(steps)) is not None:
            losses[f"{side.name}{len(side.cells)}"] = values
    if losses:
        case["loss"] = {name: [float(value) for value in values] for name, values in losses.items()}
        compared = CHECKED if scale.dtype == "bfloat16" else steps
        apart = disagreement({name: values[:compared] for name, values in losses.items()})
        case["agreement"] = {"steps": compared, "largest_relative_difference": apart}
        if max(apart.values()) > scale.tolerance[scale.dtype]:
            words = ", ".join(f"{name} {value:.1e}" for name, value in apart.items())
            case["disagrees"] = f"the losses differ (relative, from the first: {words}); nothing was timed"
    case |= {"rounds": 0, "sides": [side.found for side in sides]}
    keep(case)
    while (
        "disagrees" not in case and case["rounds"] < scale.rounds and (not case["rounds"] or time.perf_counter() < ends)
    ):
        for side in sides:
            side.measure()
        case["rounds"] += 1
        took = ", ".join(
            f"{side.name}×{len(side.cells)} {side.found['ms'][-1]:.4g} ms" for side in sides if not side.failed
        )
        print(f"{tokens} tokens, round {case['rounds']} of {scale.rounds}: {took}", file=sys.stderr, flush=True)
        keep(case)
    if "disagrees" not in case:
        for side in sides:
            side.measure_features()
    return case


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


def chosen(given: argparse.Namespace) -> Scale:
    """The preset with what the command line says instead."""
    scale = SCALES[given.scale]
    change = {name: getattr(given, name) for name in ("dtype", "rounds", "minutes", "alone") if getattr(given, name)}
    if given.tokens:
        change["tokens"] = tuple(dict.fromkeys(given.tokens))  # in this order: time may be over before the last
    for name in ("adapters", "ranks"):
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


def _write(found: dict[str, Any], out: Path, gpu: bool) -> None:
    """`throughput.json` and `table.md` of what there is."""
    cases, best = found["cases"], peak(found)
    found["rows"] = [row for case in cases for row in summarise(case, best)]
    found["targets"] = targets(cases, best, gpu=gpu)
    (out / "throughput.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    by = max(found["matmul"], key=lambda measured: max(measured.values()))
    words = [
        f"{found['hardware']}; {found['scale']}, {found['dtype']}; {found['date']}; `{found['command']}`",
        f"Best square product: {best / 1e9:,.1f} GFLOP/s, by {max(by, key=lambda name: by[name])}.",
        "",
        table(cases, best),
        *_disturbed(found),
        *target_lines(found["targets"]),
    ]
    (out / "table.md").write_text("\n".join(words) + "\n")


def _report(found: dict[str, Any], out: Path) -> int:
    """Prints the table, unless nothing agreed; the exit code."""
    cases = found["cases"]
    wrong = [case for case in cases if "disagrees" in case]
    failed = [side for case in cases for side in case["sides"] if not side.get("failed", "out of").startswith("out of")]
    if not cases or len(wrong) == len(cases):
        print("error: the sides do not compute the same, so there is no table.", file=sys.stderr)
        return 1
    print((out / "table.md").read_text())
    print(f"wrote {out / 'throughput.json'} and table.md")
    return 1 if wrong or failed else 0
