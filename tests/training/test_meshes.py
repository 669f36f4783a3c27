"""Every shape of mesh trains the same adapters, on simulated devices."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from models import tiny

# Data and tensor add up float32 sums in another order; over 8 to 20 steps of losses of a few nats that is all.
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=["whole mlp", pytest.param("picked q_proj,down_proj", marks=pytest.mark.slow)])
def found(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    child_environment: dict[str, str],
    python: str,
) -> tuple[str, dict[str, Any]]:
    """The tiny Qwen3 with a vocabulary that the meshes divide, whole sequences and picked samples of a book."""
    kind, targets = request.param.split()
    raw = tiny.CASES["qwen3"] | {"vocab_size": 104}
    directory: Path = tiny.write(tmp_path_factory.mktemp("meshes"), "qwen3", raw=raw)
    environment = child_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run(
        [python, "-m", "training.meshes", str(directory), kind, targets],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return kind, json.loads(child.stdout)


def test_lanes_and_weights_that_are_split_change_no_bit(found: tuple[str, dict[str, Any]]) -> None:
    """A device computes what one device alone does with as many lanes."""
    kind, all_of_them = found
    if kind == "whole":
        assert all_of_them["differences"]["8×1×1×1"] == all_of_them["differences"]["1×1×8×1"] == 0.0


def test_samples_and_heads_that_are_split_change_the_order_of_sums_only(found: tuple[str, dict[str, Any]]) -> None:
    kind, all_of_them = found
    assert len(all_of_them["differences"]) == {"whole": 4, "picked": 2}[kind]
    assert max(all_of_them["differences"].values()) < TOLERANCE


def test_what_a_mesh_communicates(found: tuple[str, dict[str, Any]]) -> None:
    """Nothing along adapters; along fsdp weights are gathered and nothing else; the others need sums."""
    kind, all_of_them = found
    collectives = all_of_them["collectives"]
    if kind == "whole":
        assert collectives["8×1×1×1"] == []
        assert collectives["1×1×8×1"] == ["all-gather"]
        assert "all-reduce" in collectives["1×1×1×8"]
    else:
        assert "all-reduce" in collectives["1×8×1×1"]


def test_pmap_runs_the_same_step(found: tuple[str, dict[str, Any]]) -> None:
    kind, all_of_them = found
    if kind == "whole":
        assert all_of_them["pmap"] == 0.0


def test_what_cannot_be_is_refused_by_name(found: tuple[str, dict[str, Any]]) -> None:
    kind, all_of_them = found
    if kind == "whole":
        signs = [
            "fsdp 3",
            "adapters 2 × data 2",
            "1 device or more",
            "more than one axis of -1",
            "pmap",
            "axis data has 4",
        ]
        for sentence, sign in zip(all_of_them["refusals"], signs, strict=True):
            assert sentence and sign in sentence and "\n" not in sentence
