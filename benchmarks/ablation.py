"""What is each idea worth? Time of a step of one adapter with one of them switched off at a time, in one run.

What: the random decoder of `throughput.py` (12 blocks, the adapter at block 8, one random sequence), N adapters, on one
core. Switched off are: the features (every step runs all blocks from the embeddings), several steps a dispatch, several
lanes, the chunked head (all logits are made and kept), blocked attention (JAX's own instead) and unrolled blocks. A
switch is a setting where there is one; else the function is replaced by the plain one. All variants take turns, and all
must give the same losses.
Hardware: any CPU, of which one core is used.
Time: about 8 minutes. Expected: features 1.5 to 2 times; the head and attention 1.2 to 1.7; the others less.
Command:

    python benchmarks/ablation.py --out runs/ablation
    python benchmarks/ablation.py --scale tiny --out runs/ablation_tiny    # a minute; shows that it works

OUT gets `ablation.json` and `table.md`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from throughput_machine import Parser, guarded, one_core, told

STEPS, APART = 8, 1e-4  # of a dispatch; the largest relative difference of a loss
FORMS: dict[str, dict[str, Any]] = {
    "embedded": {"tokens": 512, "adapters": 4, "rounds": 3},
    "tiny": {"tokens": 48, "adapters": 2, "rounds": 1},
}


@dataclass(kw_only=True)
class Variant:
    """Everything, or all but one idea.

    Attributes:
      steps: of a dispatch.
      lanes: adapters at once; None is all.
      patch: replaces a function while the variant is compiled.
    """

    name: str
    cached: bool = True
    steps: int = STEPS
    lanes: int | None = None
    patch: Callable[[], Any] = nullcontext
    ms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_seconds: float | None = None


def variants() -> list[Variant]:
    """The whole first."""
    import jax
    import jax.numpy as jnp

    from memlaw_jax.models import decoder, layers
    from memlaw_jax.objectives import TokenScores

    verify = importlib.import_module("memlaw_jax.readout.verify")  # where the name is a function's, too

    def plain_scores(hidden: Any, head: Any, labels: Any) -> TokenScores:
        logits = hidden @ head
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        return TokenScores(nats=nats, right=logits.argmax(axis=-1) == labels)

    def plain_attention(q: Any, k: Any, v: Any, *_: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    return [
        Variant(name="as it ships"),
        # of several steps XLA would take what is frozen out of the loop
        Variant(name="no features", cached=False, steps=1),
        Variant(name="one step a dispatch", steps=1),
        Variant(name="one lane", lanes=1),
        Variant(name="plain head", patch=lambda: replaced(verify, "token_scores", plain_scores)),
        Variant(name="plain attention", patch=lambda: replaced(layers, "attend", plain_attention)),
        Variant(name="blocks in a loop", patch=lambda: replaced(decoder, "UNROLLED", 0)),
    ]


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of a module's global for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def measure(variant: Variant, index: int, base: Any, encoded: Any, cells: Sequence[Any]) -> None:
    """One more value of `ms`: milliseconds of a step of one adapter, between two looks of the host after the first."""
    from memlaw_jax.training import Frozen, OptimConfig, train_cells

    # an epsilon of its own tells the variants' compiled programs apart
    optim = OptimConfig(steps=3 * max(variant.steps, 2), eps=1e-8 * (1 + index * 1e-3))
    stamps: list[float] = []

    def listen(cell: Any, step: int, metrics: Any) -> None:
        if cell.name == cells[0].name:
            stamps.append(time.perf_counter())
            if step == 0:
                variant.losses = [float(value) for value in metrics.loss[:2]]

    lanes = variant.lanes or len(cells)
    with variant.patch():
        begun = time.perf_counter()
        frozen = Frozen(base, cells[0].lora, cached=variant.cached)
        some = cells[:1] if lanes == 1 else cells
        list(train_cells(base, encoded, some, optim=optim, lanes=lanes, steps_per_dispatch=variant.steps,
                         frozen=frozen, listen=listen))  # fmt: skip
    if variant.first_seconds is None:
        variant.first_seconds = stamps[0] - begun
    between = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    variant.ms.append(1e3 * between / variant.steps / lanes)


def run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Measures all variants; 1 if they disagree."""
    from throughput_model import SCALES, make_cells, random_base, random_sequence

    form, scale = FORMS[given.scale], SCALES[given.scale]
    base = random_base(scale.config, "float32")
    encoded = random_sequence(scale.config, form["tokens"])
    cells = make_cells(scale.ranks, form["adapters"])
    made = variants()
    for turn in range(form["rounds"] + 1):
        for index, variant in enumerate(made):
            measure(variant, index, base, encoded, cells)
            if turn == 0:
                variant.ms.clear()  # it held the compiler's memory and caches
        print(f"round {turn} of {form['rounds']}", flush=True)
    whole = made[0]
    apart = max(
        abs(one / other - 1) for variant in made for one, other in zip(variant.losses, whole.losses, strict=False)
    )
    if apart > APART:
        print(f"error: losses are {apart:.1e} apart; no table.", file=sys.stderr)
        return 1
    rows = [
        {
            "variant": variant.name,
            "ms": [round(value, 2) for value in variant.ms],
            "slower": statistics.median(a / b for a, b in zip(variant.ms, whole.ms, strict=True)),
            "first_seconds": round(variant.first_seconds or 0.0, 1),
        }
        for variant in made
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    found = told("ablation.py", arguments) | form | {"losses_apart": apart, "variants": rows}
    (given.out / "ablation.json").write_text(json.dumps(found, indent=2) + "\n")
    text = table(rows, form)
    (given.out / "table.md").write_text(text)
    print(text)
    return 0


def table(rows: Sequence[dict[str, Any]], form: dict[str, Any]) -> str:
    """One row a variant."""
    lines = [
        f"{form['tokens']} tokens, {form['adapters']} adapters, float32, one core; medians of {form['rounds']} rounds.",
        "",
        "| switched off | ms per adapter-step | times as slow | to the first dispatch's end, s |",
        "|---|---|---|---|",
    ]
    for row in rows:
        name = "nothing" if row["variant"] == "as it ships" else row["variant"]
        spread = f"{statistics.median(row['ms']):.1f} ({min(row['ms']):.1f} to {max(row['ms']):.1f})"
        lines.append(f"| {name} | {spread} | {row['slower']:.2f} | {row['first_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def parser() -> Parser:
    """The command line."""
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--scale", choices=tuple(FORMS), default="embedded")
    made.add_argument("--core", type=int, help="which core to use; the last allowed one if left out")
    made.add_argument("--out", type=Path, default=Path("runs/ablation"), metavar="DIR")
    return made


def _main(arguments: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser().parse_args(arguments)
    one_core(given.core)
    return run(given, arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if the variants disagree; 2 for a user's mistake."""
    return guarded(_main, arguments)


if __name__ == "__main__":
    sys.exit(main())
