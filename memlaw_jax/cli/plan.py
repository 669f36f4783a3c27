"""`memlaw plan`: the rank that N tokens need, from a law; or the sweep that a law needs."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from memlaw_jax.errors import UserError

NAME = "plan"
HELP = "Plan the rank, size and steps that N tokens need at a wanted recall; with --design, the sweep to measure a law."
EXAMPLE = """examples:
  memlaw plan --law runs/demo/law --tokens 20000
  memlaw plan --law law.json --tokens 20000 --recall 0.9 --json
  memlaw plan --design --law law.json --width 0.1 --out runs/next
  memlaw plan --design --width 0.1 --ranks 1,2,4,8,16,32 --lengths 1000,4000,8000,16000,32000

The law is a law.json of `memlaw fit`, or its folder; it holds the recall measured in every cell. Tokens are answer
tokens, and recall is the share of samples that come back word for word. The plan says when it extrapolates."""

_PLANNING = ("tokens", "recall")
_DESIGNING = ("width", "ranks", "lengths", "max_seeds", "out")


def arguments(command: argparse.ArgumentParser) -> None:
    """Adds this command's arguments."""
    command.add_argument("--law", metavar="FILE", help="a law.json, or the folder that holds it")
    command.add_argument("--tokens", metavar="N", type=int, help="answer tokens to store")
    command.add_argument("--recall", metavar="P", type=float, help="share of samples word for word (default: 0.99)")
    command.add_argument("--design", action="store_true", help="propose a sweep instead; --law is optional then")
    command.add_argument("--width", metavar="W", type=float, help="--design: full width of α's 95 %% interval")
    command.add_argument("--ranks", metavar="R,R", type=_whole_numbers, help="--design: ranks to choose among")
    command.add_argument("--lengths", metavar="N,N", type=_whole_numbers, help="--design: lengths to choose among")
    command.add_argument("--max-seeds", metavar="K", type=int, help="--design: most seeds a cell (default: 5)")
    command.add_argument("--out", metavar="DIR", help="--design: folder for the configs that `memlaw sweep` takes")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Plans or designs; returns the JSON result and the words for a person."""
    _check(args)
    return _design(args) if args.design else _plan(args)


def _plan(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from memlaw_jax.analysis.law.law import Law
    from memlaw_jax.analysis.planning.plan import plan
    from memlaw_jax.analysis.planning.plan_words import describe_plan

    wanted = {} if args.recall is None else {"recall": args.recall}
    found = plan(Law.load(args.law), tokens=args.tokens, **wanted)
    return dataclasses.asdict(found) | {"law": args.law}, describe_plan(found)


def _design(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from memlaw_jax.analysis import files
    from memlaw_jax.analysis.law.law import Law
    from memlaw_jax.analysis.planning.design import design_sweep
    from memlaw_jax.analysis.planning.design_words import describe_design

    seeds = {} if args.max_seeds is None else {"max_seeds": args.max_seeds}
    law = None if args.law is None else Law.load(args.law)
    design = design_sweep(law, width=args.width, ranks=args.ranks, lengths=args.lengths, **seeds)
    result, words = design.to_dict() | {"law": args.law}, describe_design(design)
    if args.out is None:
        return result, words
    place = files.folder(args.out)
    written = [str(files.write(place / name, text)) for name, text in design.configs().items()]
    return result | {"out": str(place), "files": written}, "\n".join(
        [words, "", "Written:", *[f"  {path}" for path in written]]
    )


def _check(args: argparse.Namespace) -> None:
    """Which arguments go together."""
    foreign: tuple[str, ...]
    if args.design:
        foreign, where = _PLANNING, "does not go with --design, which plans a sweep and no rank; leave one of them out"
        needed = {"width": "--design needs --width W, the wanted full width of α's 95 % interval, such as 0.1"}
    else:
        foreign, where = _DESIGNING, "goes with --design only; add --design, or leave it out"
        needed = {
            "law": "a plan needs --law FILE, a law.json of `memlaw fit`; without one, --design plans the sweep for it",
            "tokens": "a plan needs --tokens N, the number of answer tokens to store; or --design, to plan a sweep",
        }
    for name in foreign:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} {where}")
    for name, sentence in needed.items():
        if getattr(args, name) is None:
            raise UserError(sentence)


def _whole_numbers(text: str) -> tuple[int, ...]:
    """'1,2,4' as whole numbers."""
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers of 1 or more; write it as 1,2,4")
    return numbers
