"""What the makespan benchmark would do: cells, arithmetic, seconds and memory of each road. Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughput_flops import needed, released
from throughput_machine import Mistake, matmul_peak

from memlaw_jax import UserError
from memlaw_jax.check.abstract import decoder_config
from memlaw_jax.check.hardware import find_hardware
from memlaw_jax.check.predict import OF_CPU_PEAK, OF_PEAK
from memlaw_jax.cli.config import read_config
from memlaw_jax.models import DecoderConfig

CONFIGS = Path(__file__).resolve().parents[1] / "tpu_configs"
FILES = {"qwen3": "qwen3-8b", "llama": "llama-3.1-8b"}
RELEASED_ON = "h100-1"  # PyTorch has no TPU here
OWN_WORDS = "at most that, since cells end once they recall everything and some are left out"


def embedded_plan(plan: dict[str, Any], roads: Sequence[str]) -> str:
    """One core of this machine."""
    config, best = decoder_config(plan["model"]), max(matmul_peak("float32").values())
    cells = [(rank, length) for length in plan["lengths"] for rank in plan["ranks"]]
    lines = [
        f"{len(cells)} cells: ranks {_list(plan['ranks'])}; lengths {_list(plan['lengths'])}; "
        f"{plan['steps']} steps each."
    ]
    for road in roads:
        flops = _flops(config, road, cells, plan["steps"])
        seconds = flops / best / OF_CPU_PEAK
        lines.append(
            f"- {road}: {flops / 1e12:,.2f} TFLOP, about {seconds:,.0f} s at {OF_CPU_PEAK:.0%} of the "
            f"{best / 1e9:,.0f} GFLOP/s of a square product on this core, and compilation{_hurried(road)}."
        )
    memory = "Memory: below 1 GB a road, one after the other."
    return "\n".join([*lines, memory, "Nothing was trained or timed."])


def paper_plan(model: str, hardware: str, roads: Sequence[str]) -> str:
    """The paper's long-context grid on the machine that a file of `tpu_configs/` is for.

    Raises:
      Mistake: a model or hardware that has none.
    """
    try:
        config = decoder_config(model)
        if config.family not in FILES:
            raise Mistake(f"--model {model} is of the family {config.family}; the paper has Qwen3-8B and Llama-3.1-8B.")
        path = CONFIGS / f"{hardware}_{FILES[config.family]}_long_context.yaml"
        if not path.exists():
            there = sorted(one.name.split("_")[0] for one in CONFIGS.glob(f"*_{path.name.partition('_')[2]}"))
            raise Mistake(f"--hardware is {hardware}, which tpu_configs/ has no file for; it has {', '.join(there)}.")
        sweep = read_config(path)
        machines = {"ours": find_hardware(hardware), "plain": find_hardware(hardware)}
        machines["released"] = find_hardware(RELEASED_ON)
    except UserError as error:
        raise Mistake(str(error)) from None
    lengths = [length for length in sweep.lengths if length is not None]
    steps = sweep.optim.total_steps(samples=1)
    cells = [(rank, length) for length in lengths for rank in sweep.ranks]
    lines = [
        f"{len(cells)} cells of {model}: ranks {_list(sweep.ranks)}; lengths {_list(lengths)}; {steps} steps each.",
        f"Reckoned at {OF_PEAK:.0%} of the makers' peak, not measured; loading and compilation left out.",
    ]
    for road in roads:
        machine, flops = machines[road], _flops(config, road, cells, steps)
        hours = flops / (machine.chips * machine.chip.peak * OF_PEAK) / 3600
        lines.append(
            f"- {road}: {flops / 1e18:,.1f} EFLOP on {machine.name}, about {hours:,.1f} hours ({hours / 24:,.1f} days)"
            f"{_hurried(road)}."
        )
    lines.append(f"Memory a chip and lanes: {path.relative_to(CONFIGS.parent)} says what its compiler told.")
    return "\n".join([*lines, "Nothing was trained or timed."])


def _flops(config: DecoderConfig, road: str, cells: Sequence[tuple[int, int]], steps: int) -> float:
    """FLOPs of all cells, a prompt left out."""
    layer, total = config.paper_layer, 0.0
    for rank, length in cells:
        shape = {"layer": layer, "rank": rank, "tokens": length}
        total += steps * (released(config, **shape) if road == "released" else needed(config, answers=length, **shape))
    return total


def _hurried(road: str) -> str:
    return f"; {OWN_WORDS}" if road == "ours" else ""


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
