"""`memlaw remember`: the user's own records in, an adapter that recalls them out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from memlaw_jax.errors import UserError

NAME = "remember"
HELP = "Train one adapter to recall your own records word for word."
EXAMPLE = """examples:
  memlaw remember examples/exact_memory/credentials.jsonl --out runs/credentials
  memlaw remember examples/page.txt --rank 32 --method memft-ot --out runs/page
  memlaw remember notes.jsonl --model Qwen/Qwen3-8B --dtype bfloat16 --law runs/law/law.json --out runs/notes

DATA has one {"query": ..., "target": ...} a line, or is a .txt or .md file, which is cut into parts. Training ends once
every token of every target has a probability above ½. The same command again goes on where the last one was stopped.
`--rank auto` doubles the rank until everything is recalled, beginning where the law (if one is given) or one parameter
a token says it may fit. Then: memlaw recall OUT/adapter --data DATA"""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("data", metavar="DATA", help="records as JSON lines, or a text file")
    command.add_argument("--out", metavar="DIR", required=True, help="folder of the adapter, records and curves")
    command.add_argument("--model", metavar="M", default="embedded", help="directory, hub id or 'embedded' (default)")
    command.add_argument("--dtype", default="float32", help="of the frozen weights (default: float32)")
    command.add_argument("--rank", metavar="R", default="auto", help="a number, or auto (default)")
    command.add_argument("--law", metavar="JSON", help="a law.json of this model, for --rank auto")
    command.add_argument("--method", metavar="M", default=DEFAULT_METHOD, help=f"{METHODS_TEXT} ({DEFAULT_METHOD})")
    command.add_argument("--targets", metavar="T", default="mlp", help="mlp (default), or linear layers: q_proj,v_proj")
    command.add_argument("--layers", metavar="L", help="adapted blocks, such as 4 or 2,3 (default: see docs)")
    command.add_argument("--steps", type=int, default=400, help="optimiser steps at most (default: 400)")
    command.add_argument("--batch-size", type=int, help="records a step (default: all)")
    command.add_argument("--learning-rate", type=float, default=0.01, help="peak, decays to 0 (default: 0.01)")
    command.add_argument("--seed", type=int, default=0, help="of the adapter and the order (default: 0)")


METHODS_TEXT = "sft, memft-ot, memft-sw or memft-curriculum"
DEFAULT_METHOD = "sft"


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Trains; returns the JSON result and the words for a person."""
    begun = time.perf_counter()
    from memlaw_jax.analysis import Law
    from memlaw_jax.cli.misses import misses, table
    from memlaw_jax.models import LoraConfig, load_base
    from memlaw_jax.readout import encode, free_run, recall
    from memlaw_jax.tasks import RecordsTask
    from memlaw_jax.training import OptimConfig, make_method
    from memlaw_jax.training.logging import Log
    from memlaw_jax.training.remember import advice, remember

    rank = _rank(args.rank)
    method = make_method(args.method)
    lora = LoraConfig(
        rank=rank or 1,
        targets=tuple(args.targets.split(",")),
        layers=_layers(args.layers),
    )
    optim = OptimConfig(learning_rate=args.learning_rate, steps=args.steps, batch_size=args.batch_size)
    law = Law.load(args.law) if args.law else None
    task = RecordsTask(path=args.data)
    base = load_base(args.model, args.dtype)
    found = remember(
        base, task, args.out, lora=lora, rank=rank, method=method, optim=optim, seed=args.seed, law=law,
        watch=Log(args.out, bar=not args.json),
    )  # fmt: skip
    samples = task.samples(base.tokenizer, None, max_length=base.config.max_positions)
    encoded = encode(base, samples)
    report, free = recall(base, found.adapter, encoded), free_run(base, found.adapter, encoded)
    missed = misses(base, encoded, report, free)
    widest = min(min(base.config.linear_shape(target)) for target in lora.targets)
    hints = advice(found, widest)
    seconds = round(time.perf_counter() - begun, 1)
    result = {
        "out": str(args.out), "adapter": str(found.directory), "rank": found.record["rank"], "method": method.name,
        "ranks_tried": [record["rank"] for record in found.tried], "steps": found.record["steps"],
        "stopped": found.record["stopped"], "records": len(report.keys), "answer_tokens": int(report.mask.sum()),
        "exact_match": report.exact_match, "token_accuracy": report.token_accuracy,
        "token_accuracy_free": free.token_accuracy, "fraction_above_half": report.fraction_above_half,
        "p_min": report.p_min, "loss": report.loss, "misses": missed, "advice": hints, "seconds": seconds,
    }  # fmt: skip
    recalled = int(report.recalled.sum())
    words = [
        f"{recalled} of {len(report.keys)} records ({result['answer_tokens']} tokens) are recalled word for word, by "
        f"rank {found.record['rank']} ({found.record['effective_parameters']} parameters) after "
        f"{found.record['steps']} steps, {seconds:.0f} s in all.",
        f"The least certain token has p = {report.p_min:.3g}; {report.fraction_above_half:.1%} of the tokens are above "
        "½, where greedy decoding cannot miss.",
    ]
    if len(found.tried) > 1:
        tried = ", ".join(f"rank {record['rank']}: {record['exact_match']:.0%}" for record in found.tried)
        words.append(f"Tried: {tried} recalled.")
    if missed:
        words += ["", "Not recalled:", table(missed), "", "What would help:", *[f"  - {hint}" for hint in hints]]
    words += [
        "",
        f"Adapter: {found.directory}",
        f"Records: {Path(args.out) / 'results.jsonl'}",
        f"Curves:  {Path(args.out) / 'tensorboard'} (for TensorBoard)",
        f"Check:   memlaw recall {found.directory} --data {args.data}",
    ]
    return result, "\n".join(words)


def _rank(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--rank is {text}; give a number, 1 or more, or auto.")
    return int(text)


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--layers is {text}; give block numbers from 0, such as 4 or 2,3.")
    return tuple(int(part) for part in parts)
