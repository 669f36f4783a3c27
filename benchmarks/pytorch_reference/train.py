"""The command line: trains a grid of ranks and lengths, one cell after the other, and writes `results.jsonl`.

Example, the paper's procedure on the embedded base model, 64 random tokens:

    python benchmarks/pytorch_reference/train.py --model embedded --random-tokens 64 --ranks 1 2 4 --mode released \\
        --steps 200 --out runs/reference
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pytorch_reference import data as texts
from pytorch_reference.bypass import paper_layer
from pytorch_reference.cell import PAPER, run_cell
from pytorch_reference.data import Data, Mistake
from pytorch_reference.protocol import DTYPES

EMBEDDED = Path(__file__).resolve().parents[2] / "memlaw_jax" / "models" / "embedded"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message}; see --help.")


def parser() -> Parser:
    """Every default is the paper's."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--model", required=True, help="a Hugging Face directory or hub id, or `embedded`")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a JSON Lines file of query/target records")
    source.add_argument("--random-tokens", type=int, help="one sequence of so many random tokens")
    add("--task", default="phonebook", help="what the records call the task of --data")
    add("--length", type=int, nargs="+", help="answer tokens of a cell; all of them if left out")
    add("--ranks", type=int, nargs="+", required=True)
    add("--layer", type=int, help="the adapted block, zero-based; two thirds of the way up if left out")
    add("--mode", choices=("released", "lean", "peft"), default="released")
    add("--targets", nargs="+", choices=LINEAR, help="of `peft`, in every block; all if left out")
    add("--alpha", type=float, help="of `peft`, 8 if left out; the paper's bypass has none")
    length = made.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="2000 for random tokens if both are left out")
    length.add_argument("--epochs", type=int, help="200 for records if both are left out")
    add("--batch-size", type=int, help="samples a step; the paper's for this length if left out")
    add("--learning-rate", type=float, default=PAPER["learning_rate"])
    add("--dropout", type=float, default=PAPER["dropout"])
    add("--state-dtype", choices=DTYPES, default=PAPER["state_dtype"], help="of the adapter and Adam's moments")
    add("--dtype", choices=DTYPES, default=PAPER["dtype"], help="of the frozen model")
    add("--system", default=texts.SYSTEM, help="system message of chat models; an empty one for none")
    add("--seed", type=int, default=42)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--out", type=Path, required=True)
    return made


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 for a user's mistake."""
    try:
        run(parser().parse_args(arguments))
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0


def run(given: argparse.Namespace) -> None:
    """All cells, each written when it is done."""
    _check(given)
    results = given.out / "results.jsonl"
    if results.exists():
        raise Mistake(f"{results} holds a run already; choose another --out.")
    model, tokenizer = load(given.model, DTYPES[given.dtype], given.device)
    limit = model.config.hidden_size
    if max(given.ranks) > limit:
        raise Mistake(f"--ranks has {max(given.ranks)}, but the model is only {limit} wide; use at most {limit}.")
    depth = model.config.num_hidden_layers
    layer = paper_layer(depth) if given.layer is None else given.layer
    if not 0 <= layer < depth:
        raise Mistake(f"--layer is {layer}, but the model's blocks are 0 to {depth - 1}.")
    encoder = texts.Encoder(tokenizer, given.system or None)
    sets = [encode(encoder, given, length, model) for length in given.length or (None,)]
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"cannot write to {given.out}: {error.strerror}; choose another --out.") from None
    for encoded in sets:
        for rank in given.ranks:
            record = run_cell(model, encoded, rank, layer, given)
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(
                f"rank {rank}, length {record['length']}: {record['loss_initial']:.3f} → {record['loss_final']:.3f} "
                f"nats, {record['seconds'] / record['steps'] * 1e3:.1f} ms a step"
            )
    print(f"wrote {results}")


def load(source: str, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """A frozen causal language model in evaluation mode, and its tokenizer."""
    transformers.utils.logging.disable_progress_bar()
    path = str(EMBEDDED) if source == "embedded" else source
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
        return model.to(device).eval().requires_grad_(False), tokenizer
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise Mistake(f"{source} cannot be loaded on {device}: {reason}") from None


def encode(encoder: texts.Encoder, given: argparse.Namespace, length: int | None, model: Any) -> Data:
    """The data set of one length."""
    if given.data:
        samples = texts.record_samples(encoder, texts.read_records(given.data), length)
    else:
        if length is not None and length > given.random_tokens:
            raise Mistake(f"--length is {length}, more than --random-tokens {given.random_tokens}.")
        samples = texts.random_sample(encoder, length or given.random_tokens, seed=0)
    pad_id = encoder.tokenizer.pad_token_id
    encoded = texts.pad(samples, pad_id if pad_id is not None else encoder.tokenizer.eos_token_id or 0)
    if encoded.tokens.shape[1] > model.config.max_position_embeddings:
        raise Mistake(
            f"a sample has {encoded.tokens.shape[1]} tokens, more than the model's "
            f"{model.config.max_position_embeddings}; shorten it."
        )
    return encoded


def _check(given: argparse.Namespace) -> None:
    for name in ("ranks", "length"):
        if min(getattr(given, name) or [1]) < 1:
            raise Mistake(f"--{name} has {min(getattr(given, name))}; give numbers of 1 or more.")
    for name in ("random_tokens", "steps", "epochs", "batch_size", "learning_rate", "alpha"):
        value = getattr(given, name)
        if value is not None and not value > 0:
            raise Mistake(f"--{name.replace('_', '-')} is {value}; give a number above 0.")
    linear = given.mode == "peft"
    for name in ("layer",) if linear else ("targets", "alpha"):
        if getattr(given, name) is not None:
            raise Mistake(f"--{name} is no setting of --mode {given.mode}; take it out.")
    given.targets, given.alpha = given.targets or list(LINEAR), given.alpha or 8.0
    if not 0 <= given.dropout < 1:
        raise Mistake(f"--dropout is {given.dropout}; give a share from 0 to below 1.")
    if given.seed < 0:
        raise Mistake(f"--seed is {given.seed}; give 0 or more.")


if __name__ == "__main__":
    sys.exit(main())
