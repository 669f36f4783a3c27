"""`memlaw remember`: the user's own records in, an adapter that recalls them out."""

from __future__ import annotations

import argparse
import shlex
import time
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
With `--rank auto` the rank is doubled until everything is recalled. It begins where the law, if one is given, says that
the adapter may hold all of it, and otherwise where it has 8 parameters a token. Then check the adapter with
`memlaw recall OUT/adapter --data DATA`."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("data", metavar="DATA", help="records as JSON lines, or a text file")
    command.add_argument("--out", metavar="DIR", required=True, help="folder of the adapter, records and curves")
    command.add_argument("--model", metavar="M", default="embedded", help="directory, hub id or 'embedded' (default)")
    command.add_argument("--dtype", metavar="T", default="float32", help="of the frozen weights (default: float32)")
    command.add_argument("--rank", metavar="R", default="auto", help="a number, or auto (default)")
    command.add_argument("--law", metavar="JSON", help="a law.json of this model, for --rank auto")
    command.add_argument(
        "--method", metavar="M", default=DEFAULT_METHOD, help=f"{METHODS_TEXT} (default: {DEFAULT_METHOD})"
    )
    command.add_argument(
        "--targets", metavar="T", default="mlp", help="mlp (default), or linear layers such as q_proj,v_proj"
    )
    command.add_argument(
        "--layers", metavar="L", help="blocks, such as 4 or 2,3 (default: one two thirds up for mlp, else all)"
    )
    command.add_argument("--steps", metavar="N", type=int, default=400, help="optimiser steps at most (default: 400)")
    command.add_argument("--batch-size", metavar="N", type=int, help="records a step (default: all)")
    command.add_argument(
        "--learning-rate", metavar="X", type=float, default=0.01, help="peak, decays to 0 (default: 0.01)"
    )
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of the adapter and the order (default: 0)")


_ENDED = {
    "recalled": " of {steps}, when all its tokens were above ½",
    "budget": ", all that --steps allows",
    "diverged": " of {steps}, when the training diverged",
}
METHODS_TEXT = "sft, memft-ot, memft-sw or memft-curriculum"
DEFAULT_METHOD = "memft-ot"


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Trains; returns the JSON result and the words for a person."""
    begun = time.perf_counter()
    from memlaw_jax.analysis import Law
    from memlaw_jax.cli.misses import checked, finite, misses, table
    from memlaw_jax.models import LoraConfig, load_base
    from memlaw_jax.paths import as_path
    from memlaw_jax.readout import encode
    from memlaw_jax.tasks import RecordsTask
    from memlaw_jax.training import OptimConfig, make_method
    from memlaw_jax.training.logging import Log
    from memlaw_jax.training.remember import advice, remember, widest_rank

    rank, out = _rank(args.rank), as_path(args.out)
    method = make_method(args.method)
    lora = LoraConfig(
        rank=rank or 1,
        targets=tuple(target.strip() for target in args.targets.split(",")),
        layers=_layers(args.layers),
    )
    optim = OptimConfig(learning_rate=args.learning_rate, steps=args.steps, batch_size=args.batch_size)
    law = Law.load(args.law) if args.law else None
    task = RecordsTask(path=args.data)
    base = load_base(args.model, args.dtype)
    found = remember(
        base, task, out, lora=lora, rank=rank, method=method, optim=optim, seed=args.seed, law=law,
        watch=Log(out, bar=not args.json),
    )  # fmt: skip
    encoded = encode(base, task.samples(base.tokenizer, None, max_length=base.config.max_positions))
    report, free = checked(base, found.adapter, encoded, bar=not args.json)
    record, missed = found.record, misses(base, encoded, report, free)
    hints = advice(found, widest_rank(base.config, lora))
    seconds = round(time.perf_counter() - begun, 1)
    check = ["memlaw", "recall", str(found.directory), "--data", str(args.data)]
    check += [] if args.dtype == "float32" else ["--dtype", args.dtype]
    result = {
        "out": str(args.out), "adapter": str(found.directory), "rank": record["rank"], "method": method.name,
        "ranks_tried": [record["rank"] for record in found.tried], "steps": record["steps"],
        "stopped": record["stopped"], "records": len(report.keys), "answer_tokens": encoded.answer_tokens,
        "exact_match": report.exact_match, "token_accuracy": report.token_accuracy,
        "token_accuracy_free": free.token_accuracy, "fraction_above_half": report.fraction_above_half,
        "p_min": finite(report.p_min), "loss": finite(report.loss), "misses": missed, "advice": hints,
        "seconds": seconds,
    }  # fmt: skip
    words = [
        f"{int(report.recalled.sum())} of {len(report.keys)} records ({encoded.answer_tokens} tokens) are recalled "
        f"word for word by rank {record['rank']} ({record['effective_parameters']} parameters), after "
        f"{record['steps']} steps{_ENDED[record['stopped']].format(steps=args.steps)}; {seconds:.0f} s in all.",
    ]
    if record["stopped"] != "diverged":
        words.append(
            f"The least certain token has p = {report.p_min:.3g}; {report.fraction_above_half:.1%} of the tokens are "
            "above ½, where greedy decoding cannot miss."
        )
    if len(found.tried) > 1:
        tried = ", ".join(f"rank {record['rank']}: {record['exact_match']:.0%}" for record in found.tried)
        words.append(f"Records recalled by each rank that was tried: {tried}.")
    if missed:
        words += ["", "Not recalled:", table(missed)]
    if hints:
        words += ["", "What would help:", *[f"  - {hint}" for hint in hints]]
    words += [
        "",
        f"Adapter: {found.directory}",
        f"Records: {out / 'results.jsonl'}",
        f"Curves:  {out / 'tensorboard'} (for TensorBoard)",
        f"Check:   {shlex.join(check)}",
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
