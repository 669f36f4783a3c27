"""`memlaw recall`: what an adapter recalls of data, and what it misses."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

from memlaw_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from memlaw_jax.models import Adapter, Base
    from memlaw_jax.readout import Sampling
    from memlaw_jax.tasks import Encoded

ANSWERS, SHOWN = 5, 200  # misses whose words are shown, and characters of each
NAME = "recall"
HELP = "Verify an adapter against data: what it recalls word for word, and where the rest breaks off."
EXAMPLE = """examples:
  memlaw recall runs/credentials/adapter --data examples/exact_memory/credentials.jsonl
  memlaw recall runs/notes/adapter --data notes.jsonl --decode sample --temperature 0.7 --draws 100

Greedy decoding gives a target back word for word exactly when each of its tokens is the arg-max given the true tokens
before it; so what is recalled needs no decoding, and only the rest is decoded from where it breaks off. `--decode
greedy` also shows what was said instead. `--decode sample` draws each answer --draws times, and says how often it came
back whole."""


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter")
    command.add_argument("--data", metavar="DATA", required=True, help="records as JSON lines, or a text file")
    command.add_argument("--model", metavar="M", help="the base model (default: the one it was trained on)")
    command.add_argument("--dtype", metavar="T", default="float32", help="of the frozen weights (default: float32)")
    command.add_argument("--decode", choices=("greedy", "sample"), help="decode the answers from their queries alone")
    command.add_argument(
        "--draws", metavar="N", type=int, default=10, help="with sample: answers drawn a record (default: 10)"
    )
    command.add_argument("--temperature", metavar="X", type=float, default=1.0, help="with sample (default: 1)")
    command.add_argument("--top-k", metavar="K", type=int, help="with sample: draw from the k most probable tokens")
    command.add_argument(
        "--top-p", metavar="P", type=float, default=1.0, help="with sample: draw from this much probability"
    )
    command.add_argument("--seed", metavar="N", type=int, default=0, help="with sample (default: 0)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Verifies; returns the JSON result and the words for a person."""
    from memlaw_jax.cli.misses import checked, finite, misses, table
    from memlaw_jax.models import load_adapter, load_base
    from memlaw_jax.readout import Sampling, encode
    from memlaw_jax.tasks import RecordsTask

    if args.draws < 1:
        raise UserError(f"--draws is {args.draws}; draw at least 1.")
    sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed)
    adapter = load_adapter(args.adapter)
    task = RecordsTask(path=args.data)
    base = load_base(args.model or adapter.model, args.dtype)
    encoded = encode(base, task.samples(base.tokenizer, None, max_length=base.config.max_positions))
    adapter.check(base.config)
    adapter.check(base.config, base.fingerprint)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the adapter was trained on other weights")  # said just now, before any bar
        report, free = checked(base, adapter, encoded, bar=not args.json)
        if args.decode == "sample":
            drawn = _drawn(base, adapter, encoded, sampling, args.draws, bar=not args.json)
    missed, (low, high) = misses(base, encoded, report, free), report.interval()
    result: dict[str, Any] = {
        "records": len(report.keys), "answer_tokens": int(report.mask.sum()),
        "exact_match": report.exact_match, "exact_match_interval": [low, high],
        "token_accuracy": report.token_accuracy, "loss": finite(report.loss), "p_min": finite(report.p_min),
        "fraction_above_half": report.fraction_above_half, "recalled_below_half": report.recalled_below_half,
        "first_failure": report.first_failure, "misses": missed,
    }  # fmt: skip
    words = [
        f"{int(report.recalled.sum())} of {len(report.keys)} records are recalled word for word: exact match "
        f"{report.exact_match:.1%} (95 % interval {low:.1%} to {high:.1%}, Wilson).",
        f"Of {result['answer_tokens']} answer tokens {report.token_accuracy:.1%} are the arg-max given the true ones "
        f"before them: {report.fraction_above_half:.1%} with p above ½, and {report.recalled_below_half:.1%} as the "
        f"largest of smaller ones. The loss is {report.loss:.4g} nats a token; the least certain has "
        f"p = {report.p_min:.3g}.",
    ]
    if args.decode == "greedy":
        result |= {"token_accuracy_free": free.token_accuracy, "exact_match_free": free.exact_match}
        words.append(
            f"Decoded from the queries alone: exact match {free.exact_match:.1%}, {free.token_accuracy:.1%} of the "
            "tokens right, position by position."
        )
    if args.decode == "sample":
        chances = report.extraction(1)
        result["sampled"] = [
            {"record": key, "recalled": int(count), "draws": args.draws, "p_verbatim": finite(float(p))}
            for key, count, p in zip(report.keys, drawn, chances, strict=True)
        ]
        words.append(
            f"Drawn {args.draws} times: {drawn.mean() / args.draws:.1%} of the answers came back whole, "
            f"{(drawn > 0).mean():.1%} of the records at least once. Drawn once from the whole distribution, a record "
            f"comes back whole with a probability of {chances.mean():.1%} on average."
        )
    if missed:
        words += ["", "Not recalled:", table(missed)]
        if args.decode == "greedy":
            words += ["", *_answers(missed)]
    return result, "\n".join(words)


def _answers(missed: list[dict[str, Any]]) -> list[str]:
    """What was said in place of the targets."""
    from memlaw_jax.tasks.records import shorten

    lines = []
    for miss in missed[:ANSWERS]:
        lines += [f"  {miss['record']}"]
        lines += [
            f"    {name:7} {shorten(miss[key], SHOWN)}" for name, key in (("target", "target"), ("said", "answer"))
        ]
    if len(missed) > ANSWERS:
        lines.append(f"  … and {len(missed) - ANSWERS} more (all of them, uncut, with --json)")
    return lines


def _drawn(
    base: Base, adapter: Adapter, encoded: Encoded, sampling: Sampling, draws: int, *, bar: bool
) -> Int[np.ndarray, " S"]:
    """How often each record comes back whole when it is drawn."""
    import numpy as np
    from tqdm import tqdm

    from memlaw_jax.readout import free_run

    whole = np.zeros(len(encoded.keys), int)
    for draw in tqdm(range(draws), desc="drawing", leave=False, disable=not bar):
        own = dataclasses.replace(sampling, seed=(sampling.seed + draw) % 2**32)
        whole += free_run(base, adapter, encoded, own).recalled
    return whole
