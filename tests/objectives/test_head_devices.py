"""Adapters split over devices, simulated ones: their chunks of the head need no communication."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(child_environment: dict[str, str], python: str) -> dict[str, Any]:
    environment = child_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run([python, "-m", "objectives.eight_devices"], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("function", ["step", "verify"])
def test_chunks_stay_on_their_devices(found: dict[str, Any], function: str) -> None:
    assert found["devices"] == 8 and found[function]["partitions"] == [8]
    assert found[function]["loops"] == 1, "one chunk would prove nothing"
    assert found[function]["collectives"] == [] and all(found[function]["split"])
    assert found["crossing"]["collectives"], "a sum over the adapters must show up as a collective"


@pytest.mark.parametrize("function", ["step", "verify"])
def test_the_numbers_are_those_of_one_device(found: dict[str, Any], function: str) -> None:
    assert found[function]["difference"] <= 1e-5  # float32 sums in another order
