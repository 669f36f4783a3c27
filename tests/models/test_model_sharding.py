"""Weights that are spread over a mesh as they load, on simulated devices."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from . import tiny


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str], python: str
) -> dict[str, dict[str, Any]]:
    """The tiny Qwen3 with a vocabulary that the meshes divide, in two bfloat16 shards."""
    raw = tiny.CASES["qwen3"] | {"vocab_size": 104}
    directory = tiny.write(tmp_path_factory.mktemp("sharded"), "qwen3", raw=raw, shards=2, dtype="bfloat16")
    environment = child_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run(
        [python, "-m", "models.sharded_loading", str(directory)], env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize(
    ("axes", "share", "copies"), [("fsdp-tensor", 1 / 8, 1.05), ("tensor", 1 / 8, 1.1), ("adapters-fsdp", 1 / 4, 1.05)]
)
def test_each_device_gets_its_part(found: dict[str, Any], axes: str, share: float, copies: float):
    """No large weight is whole on any device, nor held twice: until there are lanes their axis holds weights too."""
    assert found[axes]["equal"]
    assert found[axes]["largest_share"] == share
    assert found[axes]["copies"] < copies
    # Partial sums in another order, in float32 on logits of unit scale.
    assert found[axes]["logits"] < 2e-5


def test_a_mesh_of_explicit_axes_will_do(found: dict[str, Any]):
    """They are what `jax.make_mesh` makes unless it is told otherwise."""
    assert float(found["explicit"]) < 2e-5  # type: ignore[arg-type]


def test_a_mesh_that_does_not_divide_is_named(found: dict[str, Any]):
    assert "fsdp has 5 devices" in str(found["error"]) and "\n" not in str(found["error"])


@pytest.mark.slow
def test_the_host_holds_less_than_two_tensors_more(python: str):
    """Issue 3's bound on host memory, on a checkpoint of 1.27 GB (`benchmarks/loading.py`)."""
    script = Path(__file__).parents[2] / "benchmarks" / "loading.py"
    source = f"import runpy, json; print(json.dumps(runpy.run_path({str(script)!r})['run']()))"
    child = subprocess.run([python, "-c", source], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    measured = json.loads(child.stdout.splitlines()[-1])
    assert measured["checkpoint"] > 1e9
    for case in measured["cases"].values():
        assert case["above_the_weights"] < measured["two_largest_tensors"]
