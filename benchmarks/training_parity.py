"""The same training by memlaw_jax and by PyTorch, step by step: 300 steps on the embedded base, five configurations.

Repeats: the paper's bypass (ranks 2 and 8; 64 random tokens; once with a bfloat16 adapter), a phone book in batches,
and LoRA on all linear layers, against `pytorch_reference` (`released`, `lean`) and PEFT, from one start and one order.
Hardware: any CPU; the results in the repository are from 2 cores of an Intel Xeon, one thread each for XLA and torch.
Time: about 3 minutes.
Expected: losses apart by less than 1e-3 (relative) at every step; measured 1e-6 for the bypass in float32, 5e-4 with a
bfloat16 adapter, 9e-5 with linear layers, which is as far as PyTorch's float32 is from its float64. With everything in
bfloat16, as the release has it, two right programs draw apart: ours from the released one as the lean one does.
Command:

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false OMP_NUM_THREADS=1 python benchmarks/training_parity.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from side_by_side import Difference, Mode, compare, evaluate, load_torch, train_ours, train_reference

from memlaw_jax.analysis.figures import style
from memlaw_jax.models import Base, LoraConfig, load_base
from memlaw_jax.results import commit, versions
from memlaw_jax.tasks import Encoded, LongContext, PhoneBook, pad
from memlaw_jax.training import Cell, OptimConfig

RESULTS = Path(__file__).parent / "results" / "training_parity"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BOUND = 1e-3
RELEASED, LEAN, TORCH = "#4338ca", "#0d9488", "#9aa3ad"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration. `book` is a phone book of 24 records in batches of 5; otherwise 64 random tokens."""

    title: str
    lora: LoraConfig
    modes: tuple[Mode, ...] = ("released", "lean")
    book: bool = False
    learning_rate: float = 1e-2
    state: Any = "float32"

    @property
    def cell(self) -> Cell:
        return Cell(lora=self.lora, seed=0, learning_rate=self.learning_rate)

    def optim(self, steps: int) -> OptimConfig:
        return OptimConfig(steps=steps, batch_size=5 if self.book else None, state=self.state)

    def data(self, base: Base) -> Encoded:
        task = PhoneBook(records=24) if self.book else LongContext()
        return pad(task.samples(base.tokenizer, None if self.book else 64), pad_id=base.pad_id)


CASES = (
    Case(title="bypass, rank 2, random tokens", lora=LoraConfig(rank=2)),
    Case(title="bypass, rank 8, random tokens", lora=LoraConfig(rank=8)),
    Case(title="the same, bfloat16 adapter", lora=LoraConfig(rank=8), state="bfloat16"),
    Case(title="bypass, rank 8, phone book", lora=LoraConfig(rank=8), book=True),
    Case(
        title="linear, rank 4, phone book",
        lora=LoraConfig(rank=4, targets=LINEAR, alpha=16.0, init="peft"),
        modes=("peft",),
        book=True,
        learning_rate=1e-3,
    ),
)


def run_case(case: Case, base: Base, models: dict[str, Any], steps: int) -> dict[str, Any]:
    """Trains by all procedures; the last mode also in float64, which judges what rounding alone does."""
    encoded, cell, optim = case.data(base), case.cell, case.optim(steps)
    ours = train_ours(base, encoded, cell, optim)
    final = ours.outcome.final
    record: dict[str, Any] = {
        "title": case.title,
        "rank": case.lora.rank,
        "targets": list(case.lora.targets),
        "layers": list(case.lora.adapted_layers(base.config)),
        "scale": case.lora.scale,
        "samples": len(encoded.tokens),
        "length": encoded.answer_tokens,
        "steps": steps,
        "batch_size": optim.batch(len(encoded.tokens)),
        "learning_rate": case.learning_rate,
        "precision": {"frozen": "float32", "adapter": case.state},
        "ours": {
            "loss": _short(ours.outcome.history.loss),
            "loss_final": final.loss,
            "token_accuracy": final.token_accuracy,
            "exact_match": final.exact_match,
        },
        "reference": {},
    }
    for mode in case.modes:
        theirs = train_reference(models["float32"], base, encoded, cell, optim, mode)
        apart = compare(ours, theirs)
        found = evaluate(models["float32"], base, encoded, cell, theirs.weights)
        record["reference"][mode] = {
            "loss": _short(theirs.loss),
            "loss_final": found.loss,
            "token_accuracy": found.token_accuracy,
            "exact_match": found.exact_match,
            "largest_difference": _largest(apart),
        }
    # the adapter's dtype is the model's unless it is said: float64 here means float64 throughout
    change = {"state_dtype": torch.bfloat16} if case.state == "bfloat16" else {}
    judge = train_reference(models["float64"], base, encoded, cell, optim, case.modes[-1], **change)
    record["float64"] = {"loss": _short(judge.loss), "mode": case.modes[-1]}
    for name, loss in (("ours", ours.outcome.history.loss), (case.modes[-1], theirs.loss)):
        record["float64"][f"{name}_from_it"] = float(relative(loss, judge.loss).max())
    return record


def everything_in_bfloat16(steps: int) -> dict[str, Any]:
    """The release's arithmetic: frozen weights, activations, adapter and moments in bfloat16; rank 8, random tokens.

    `rms` and `largest` are absolute differences of the loss, in nats, over all steps.
    """
    base = load_base("embedded", "bfloat16")
    model, case = load_torch(base, torch.bfloat16), replace(CASES[1], state="bfloat16")
    encoded, cell, optim = case.data(base), case.cell, case.optim(steps)
    losses = {mode: train_reference(model, base, encoded, cell, optim, mode).loss for mode in ("released", "lean")}
    losses["ours"] = train_ours(base, encoded, cell, optim).outcome.history.loss
    wide = replace(optim, state="float32")
    losses["ours, float32 adapter"] = train_ours(base, encoded, cell, wide).outcome.history.loss
    found: dict[str, Any] = {"loss": {name: _short(loss) for name, loss in losses.items()}}
    for name in ("ours", "lean", "ours, float32 adapter"):
        apart = losses[name] - losses["released"]
        found[f"{name} from released"] = {
            "rms": float(np.sqrt((apart**2).mean())),
            "largest": float(np.abs(apart).max()),
            "last": float(apart[-1]),
        }
    return found


def relative(one: Any, other: Any) -> np.ndarray:
    """|one − other| / other, at every step."""
    return np.abs(np.asarray(one) - other) / other


def draw(cases: list[dict[str, Any]]) -> Any:
    """Above: loss over steps in nats, ours and the reference's. Below: how far they are apart, with the bound."""
    with style.look():
        made = style.figure(3.25 * len(cases), 6.2)
        axes = made.subplots(2, len(cases), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 1.15))
        for (above, below), case in zip(axes.T, cases, strict=True):
            steps = np.arange(case["steps"])
            mine, theirs = np.array(case["ours"]["loss"]), case["reference"]
            last = list(theirs)[-1]
            above.plot(steps, mine, color=style.ACCENT, lw=4.5, alpha=0.45, solid_capstyle="butt")
            above.plot(steps, theirs[last]["loss"], color=style.INK, lw=1.0)
            judge = np.array(case["float64"]["loss"])
            below.semilogy(steps, _seen(theirs[last]["loss"], judge), color=TORCH, lw=0.9)
            for mode, found in theirs.items():
                colour, width = (RELEASED, 2.2) if mode == "released" else (LEAN, 0.9)
                below.semilogy(steps, _seen(mine, np.array(found["loss"])), color=colour, lw=width)
            below.axhline(BOUND, color=style.ACCENT, lw=1.2, ls=(0, (4, 3)))
            above.set_title(case["title"], fontsize=10.5)
            adapter = max(found["largest_difference"]["a_b"] for found in theirs.values())
            below.text(
                0.97,
                0.035,
                f"adapter at the end: {adapter:.0e} apart",
                transform=below.transAxes,
                ha="right",
                fontsize=8.5,
                color=style.MUTED,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
            )
            below.set_xlabel("step")
            for panel in (above, below):
                style.grid(panel)
        axes[0, 0].set_ylim(bottom=0)
        axes[1, 0].set_ylim(2e-8, 1e-2)
        axes[0, 0].set_ylabel("loss  (nats per answer token)")
        axes[1, 0].set_ylabel("relative difference of the loss")
        axes[1, 0].annotate(
            "bound of the tests", (0.03, BOUND), (0, 3), xycoords=axes[1, 0].get_yaxis_transform(),
            textcoords="offset points", fontsize=8.5, color=style.ACCENT,
        )  # fmt: skip
        made.suptitle("One training, by memlaw_jax and by PyTorch", x=0.008, ha="left", fontsize=13)
        made.legend(handles=_keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return made


def _keys() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=style.ACCENT, lw=4.5, alpha=0.45, label="memlaw_jax"),
        Line2D([], [], color=style.INK, lw=1.0, label="PyTorch"),
        Line2D([], [], color=RELEASED, lw=2.2, label="ours from the released procedure"),
        Line2D([], [], color=LEAN, lw=0.9, label="ours from the lean one, or PEFT"),
        Line2D([], [], color=TORCH, lw=0.9, label="PyTorch float32 from PyTorch float64"),
    ]


def _seen(one: Any, other: np.ndarray) -> np.ndarray:
    """Relative differences for a logarithmic axis, which has no place for equality."""
    apart = relative(one, other)
    return np.where(apart > 0, apart, np.nan)


def _largest(apart: Difference) -> dict[str, float]:
    return {"loss": float(apart.loss.max()), "step": int(apart.loss.argmax())} | {
        "objective": float(apart.objective.max()),
        "a": apart.a,
        "b": apart.b,
        "a_b": apart.product,
    }


def _short(losses: np.ndarray) -> list[float]:
    """Nine significant digits, which tell any two float32 apart."""
    return [float(f"{loss:.9g}") for loss in losses]


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{len(names)} cores, {names[0]}" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--redraw", action="store_true", help="the figure from parity.json alone")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    place = given.out / "parity.json"
    if given.redraw:
        cases = json.loads(place.read_text())["cases"]
    else:
        cases = measure(given.steps)
        environment = [f"{name}={os.environ[name]}" for name in ("XLA_FLAGS", "OMP_NUM_THREADS") if name in os.environ]
        told = {
            "command": " ".join([*environment, "python", "benchmarks/training_parity.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": f"{_cpu()}; one thread",
            "git": commit(),
            "versions": versions()
            | {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
            "model": "embedded",
            "dropout": 0.0,
            "cases": cases,
            "bfloat16": everything_in_bfloat16(given.steps),
        }
        place.write_text(json.dumps(told) + "\n")
    with style.look():
        draw(cases).savefig(given.out / "training_parity.png", dpi=style.DPI, facecolor="white")
    print(f"wrote {place} and training_parity.png")


def measure(steps: int) -> list[dict[str, Any]]:
    """All cases, told as they finish."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    base = load_base("embedded")
    models = {"float32": load_torch(base), "float64": load_torch(base, torch.float64)}
    cases = []
    for case in CASES:
        cases.append(run_case(case, base, models, steps))
        for mode, found in cases[-1]["reference"].items():
            apart = found["largest_difference"]
            print(
                f"{case.title}, {mode}: loss apart by {apart['loss']:.1e} at most, adapter by {apart['a_b']:.1e}",
                flush=True,
            )
    return cases


if __name__ == "__main__":
    main()
