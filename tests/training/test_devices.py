"""Lanes spread over devices (DESIGN.md, idea 8), on simulated ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def found(tiny_dir: Path, child_environment: dict[str, str], python: str) -> dict[str, Any]:
    environment = child_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run(
        [python, "-m", "training.eight_devices", str(tiny_dir)], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_eight_devices_give_the_numbers_of_one(found: dict[str, Any]) -> None:
    assert found["devices"] == 8 and found["all partitions"] == [8] and found["one partitions"] in ([], [1])
    assert set(found["all"]) == {f"cell {seed}" for seed in range(5)}  # five cells and three idle lanes
    for cell, losses in found["one"].items():
        # Tolerance as in test_lanes: float32 sums in another order, over 20 steps.
        np.testing.assert_allclose(found["all"][cell], losses, atol=2e-5)
        np.testing.assert_allclose(found["all final"][cell], found["one final"][cell], atol=2e-5)


def test_adapters_never_talk_to_each_other(found: dict[str, Any]) -> None:
    assert found["control"], "a sum over the lanes must show up as a collective"
    assert found["all collectives"] == []


def test_the_step_compiles_once_on_many_devices_too(found: dict[str, Any]) -> None:
    assert found["all programs"] == 1 == found["one programs"]
