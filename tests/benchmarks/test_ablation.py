"""The ablation end to end on a tiny model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import BENCHMARKS

pytestmark = pytest.mark.parity  # its random model is shared with torch


@pytest.mark.slow
def test_every_idea_is_switched_off_once_and_changes_no_loss(
    tmp_path: Path, python: str, child_environment: dict[str, str]
):
    command = [python, str(BENCHMARKS / "ablation.py"), "--scale", "tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=child_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert len(found["variants"]) == 7 and found["losses_apart"] < 1e-4
    assert all(len(row["ms"]) == 1 and row["ms"][0] > 0 for row in found["variants"])
    assert found["variants"][0]["slower"] == 1.0
    assert (tmp_path / "out" / "table.md").read_text().count("\n| ") == 8
