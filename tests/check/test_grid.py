"""The prediction of a whole grid against counts by hand, the lanes' rounds and queue, and what the configs promise."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest

from memlaw_jax.check import find_hardware, local, predict_grid, predict_grids
from memlaw_jax.check.flops import step_flops
from memlaw_jax.check.grid import COMPILING
from memlaw_jax.check.topology import StandIn
from memlaw_jax.cli.config import read_config
from memlaw_jax.errors import UserError
from memlaw_jax.models import Cut, LoraConfig, load_base
from memlaw_jax.tasks import LongContext, pad
from memlaw_jax.training import SweepConfig

CONFIGS = Path(__file__).parents[2] / "tpu_configs"


def tiny(**changed: Any) -> SweepConfig:
    """Two lengths and three ranks of the embedded base on one GPU."""
    given: dict[str, Any] = {
        "task": {"kind": "long_context", "ratio": 1.0}, "lengths": [8, 16], "ranks": [1, 2, 4], "lanes": 2,
        "optim": {"steps": 5}, "hardware": "h100-1",
    }  # fmt: skip
    return SweepConfig(**(given | changed))


def test_flops_are_those_of_all_steps_of_all_cells():
    made, base, lora = predict_grid(tiny()), load_base("embedded"), LoraConfig()
    total = 0.0
    for row in made.rows:
        encoded = pad(LongContext(ratio=1.0).samples(base.tokenizer, row.length), pad_id=base.pad_id)
        sizes: dict[str, Any] = {"tokens": encoded.tokens.shape[1], "answers": encoded.labels.shape[1]}
        hand = sum(
            sum(step_flops(base.config, Cut.of(base.config, lora), lora, rank=rank, **sizes)) for rank in (1, 2, 4)
        )
        assert row.flops == pytest.approx(5 * hand) and row.tokens == sizes["tokens"]
        total += 5 * hand
    assert made.flops == pytest.approx(total)


def test_cells_are_those_that_a_sweep_runs():
    made = predict_grid(tiny(lengths=[8, 16, 8], seeds=[0, 1], methods=["sft", "memft-sw"], learning_rates=[0.1, 0.2]))
    assert made.cells == 2 * 3 * 2 * 2 * 2
    assert [(row.length, row.cells) for row in made.rows] == [(8, 24), (16, 24)]


def test_long_contexts_go_in_rounds_length_after_length():
    made = predict_grid(tiny())  # three cells on two lanes
    assert made.training == pytest.approx(sum(2 * 5 * row.step_seconds for row in made.rows))
    assert made.compiling == 2 * COMPILING["gpu"] and made.seconds == made.training + made.compiling


def test_a_phone_books_lengths_share_one_queue():
    book: dict[str, Any] = {
        "task": {"kind": "phonebook"},
        "lengths": [200, 400],
        "optim": {"epochs": 3, "batch_size": 4},
    }
    made = predict_grid(tiny(**book))
    work = sum(row.cells * row.steps * row.step_seconds for row in made.rows)
    assert made.training == pytest.approx(work / 2) and made.compiling == COMPILING["gpu"]
    wide = predict_grid(tiny(**book, lanes=6))
    assert wide.training == pytest.approx(max(row.steps for row in wide.rows) * wide.rows[0].step_seconds)


def test_unknown_hardware_is_refused():
    with pytest.raises(UserError, match="hardware is 'abacus'"):
        predict_grid(tiny(hardware="abacus"))


def test_without_hardware_the_machine_is_this_one():
    made = predict_grid(tiny(hardware=None))
    assert re.fullmatch(r"this machine \(\d+ CPU cores?\)", made.hardware)
    assert made.usd is None and made.chips == len(jax.devices())
    for value in (made.flops, made.training, made.memory.total, made.memory.usable):
        assert math.isfinite(value) and value > 0
    assert made.seconds < 600 and made.memory.fits


def test_chips_that_are_here_are_found_in_the_table_or_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch):
    def here(kind: str, platform: str) -> Any:
        devices = [StandIn(i, 0, platform, kind) for i in range(4)]
        monkeypatch.setattr(jax, "devices", lambda: devices)
        monkeypatch.setattr(jax, "local_devices", lambda: devices)
        return local.this_machine.__wrapped__()

    found = here("TPU v5 lite", "tpu")
    assert found.name == "this machine (4 × TPU v5e)" and found.chip == find_hardware("v5e-4").chip
    assert found.chips == 4 and found.hosts == 1
    with pytest.raises(UserError, match="'Abacus 9', of which no peak"):
        here("Abacus 9", "gpu")


@pytest.mark.parametrize(
    "name, seconds",
    [("v5e-16_qwen3-8b_phonebook", 80 * 60), ("h200-8_llama-3.1-8b_phonebook", 91 * 60)],
)
def test_a_config_takes_what_its_header_says(name: str, seconds: float):
    path = CONFIGS / f"{name}.yaml"
    assert f"Whole grid: {seconds // 60} min" in path.read_text()
    made = predict_grid(read_config(path))
    assert made.training == pytest.approx(seconds, abs=30) and made.cells == 56 and made.memory.fits


def test_several_sweeps_add_up_and_are_told_in_words_and_json():
    one, two = tiny(hardware="v5e-1"), tiny(hardware="v5e-1", lengths=[32])
    totals = predict_grids([one, two])
    first, second = totals.grids
    assert totals.cells == 9 and totals.seconds == first.seconds + second.seconds
    assert totals.flops == first.flops + second.flops and totals.usd == pytest.approx(totals.seconds / 3000)  # $1.20/h
    assert totals.memory == second.memory
    assert json.loads(json.dumps(totals.as_json()))["grids"][1]["memory"]["total"] == second.memory.total
    words = totals.words()
    assert words.count("predicted, not measured") == 3 and "All 2 sweeps: 9 cells" in words
    table = [line for line in first.words().splitlines() if line.startswith("  ")]
    assert len(table) == 3 and len({len(line) for line in table}) == 1


def test_the_check_room_is_entered_without_jax(python: str):
    code = "import sys, memlaw_jax.check as check; assert 'jax' not in sys.modules; check.predict_grid"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert told.returncode == 0, told.stderr
