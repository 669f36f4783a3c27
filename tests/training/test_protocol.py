"""The two protocols as presets: what they fill in, what they refuse, and what the records say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import memlaw_jax as ml
from memlaw_jax.models import Base
from memlaw_jax.training import PROTOCOLS, OptimConfig, SweepConfig

TASK = {"task": {"kind": "long_context"}, "ranks": (1, 2)}


def test_paper_is_what_the_paper_did():
    """PAPER.md, section 2."""
    config = SweepConfig(protocol="paper", **TASK)
    assert config.lora == ml.LoraConfig(targets=("mlp",), init="paper", alpha=None, dropout=0.1)
    assert config.lora.scale == 1.0
    assert config.optim == OptimConfig(
        learning_rate=1e-2, steps=2000, schedule="linear", clip=1.0, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0
    )
    assert config.seeds == (42,)


def test_standard_is_what_we_recommend():
    config = SweepConfig(protocol="standard", **TASK)
    assert config.lora == ml.LoraConfig(init="peft", dropout=0.0)
    assert config.optim.state == "float32"
    assert len(config.seeds) == 3


def test_what_a_protocol_leaves_open_can_be_chosen():
    config = SweepConfig(
        protocol="paper", lora={"layers": [2]}, optim={"epochs": 200, "batch_size": 4, "state": "bfloat16"}, **TASK
    )
    assert config.lora.layers == (2,) and config.lora.dropout == 0.1
    assert (config.optim.epochs, config.optim.steps, config.optim.state) == (200, None, "bfloat16")
    assert SweepConfig(protocol="paper", seeds=(1, 2), **TASK).seeds == (1, 2)
    standard = SweepConfig(protocol="standard", lora={"targets": ["q_proj"], "alpha": 16.0}, **TASK)
    assert standard.lora.scale == 2.0


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_a_protocol_fixes_cannot_be_changed(name: str):
    other: dict[str, Any] = {
        "targets": ("q_proj",), "init": "rslora", "alpha": 3.0, "dropout": 0.5, "schedule": "constant", "clip": 2.0,
        "beta1": 0.5, "beta2": 0.5, "eps": 1e-3, "weight_decay": 0.1, "state": "bfloat16",
    }  # fmt: skip
    for part, fixed in (("lora", PROTOCOLS[name].lora), ("optim", PROTOCOLS[name].optim)):
        for key in fixed:
            with pytest.raises(ml.UserError) as error:
                SweepConfig(protocol=name, **{part: {key: other[key]}}, **TASK)
            assert f"protocol {name} has {part}.{key}" in str(error.value) and "\n" not in str(error.value)


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ml.UserError, match=r"protocol paper has lora.dropout 0.1, yours is 0.0"):
        SweepConfig(protocol="paper", lora=ml.LoraConfig(), **TASK)
    lora = ml.LoraConfig(**PROTOCOLS["paper"].lora)
    assert SweepConfig(protocol="paper", lora=lora, **TASK).lora is not None


def test_an_unknown_protocol_is_named():
    with pytest.raises(ml.UserError, match=r"protocol is 'papers'.*'paper' or 'standard'"):
        SweepConfig(protocol="papers", **TASK)


@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_records_say_what_was_followed(base: Base, tmp_path: Path, state: str):
    task = ml.RecordsTask(records=[("ab", "cdef"), ("gh", "ij")])
    optim = {"steps": 3, "state": state}
    paper = ml.sweep(base, task, ranks=[2], protocol="paper", optim=optim, out=tmp_path / "paper").records[0]  # type: ignore[arg-type]
    assert (paper["protocol"], paper["dropout"], paper["seed"]) == ("paper", 0.1, 42)
    assert paper["precision"] == {"frozen": "float32", "adapter": state}
    own = ml.sweep(base, task, ranks=[2], optim=OptimConfig(**optim), out=tmp_path / "own").records[0]  # type: ignore[arg-type]
    assert (own["protocol"], own["dropout"], own["seed"]) == ("custom", 0.0, 0)


def test_sweeps_that_differ_in_the_optimiser_are_told_apart(base: Base, tmp_path: Path):
    from memlaw_jax.analysis import compare

    task = ml.RecordsTask(records=[("ab", "cdef"), ("gh", "ij")])
    for name, more in (("a", {}), ("b", {"clip": 0.1, "batch_size": 1, "schedule": "constant"})):
        ml.sweep(base, task, ranks=[1, 2], optim=OptimConfig(steps=2, **more), out=tmp_path / name)
    (told,) = [note for note in compare(tmp_path / "a", tmp_path / "b").notes if note.startswith("Not the same")]
    assert all(word in told for word in ("clip=1", "clip=0.1", "batch_size 2 against 1", "linear against constant"))


def test_every_difference_is_documented():
    """docs/protocols.md names each setting that a protocol fixes, beside both protocols' values."""
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
    rows = {line.split("|")[1].strip().strip("`"): line for line in page.splitlines() if line.startswith("| `")}
    for name, protocol in PROTOCOLS.items():
        for part, fixed in (("lora", protocol.lora), ("optim", protocol.optim)):
            for key, value in fixed.items():
                column = rows[f"{part}.{key}"].split("|")[2 if name == "paper" else 3]
                shown = ", ".join(value) if isinstance(value, tuple) else str(value).lower()
                assert f"`{shown}`" in column, (name, key, column)
