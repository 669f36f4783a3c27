"""The commands with `gs://` in place of a folder: what they say, and that what they name is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from memlaw_jax.cli.main import parser
from memlaw_jax.errors import UserError
from memlaw_jax.training.checkpoint import Checkpoints

from .memory_bucket import MemoryBucket

pytestmark = pytest.mark.usefixtures("quick_compiler")

Bucket = type[MemoryBucket]
OUT = "gs://lab/grid"


def memlaw(*words: str) -> tuple[dict[str, Any], str]:
    """What a command returns: its JSON and its words."""
    args = parser().parse_args([*words, "--json"])
    return args.run(args)


def test_a_bucket_goes_through_all_commands(
    tiny_dir: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "due", False)  # TensorStore has no memory behind gs://
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(
        f"model: {tiny_dir}\ntask: {{kind: long_context, ratio: 1.0, tokens: 40}}\nlengths: [12, 24]\n"
        "ranks: [1, 2, 4]\noptim: {steps: 30, learning_rate: 0.01}\nsteps_per_dispatch: 10\n"
    )
    (tmp_path / "data.jsonl").write_text('{"query": "a?", "target": "bcd"}\n')
    before = sorted(os.listdir(tmp_path))

    result, words = memlaw("sweep", "grid.yaml", "--out", OUT)
    assert (result["out"], result["cells"]) == (OUT, 6)
    assert f"Next:    memlaw report {OUT}" in words and f"{OUT}/recall.png" in words
    assert memlaw("sweep", "grid.yaml", "--out", OUT)[0]["new"] == 0
    for command, default in (
        (("fit", OUT), "law"),
        (("microscope", OUT), "microscope"),
        (("compare", OUT, OUT), "compare"),
    ):
        result, _ = memlaw(*command)
        assert result["out"] == f"{OUT}/{default}"
        assert result["files"] and all(file in bucket.objects() for file in result["files"])
    assert memlaw("report", OUT)[0]["out"] == f"{OUT}/report.html" in bucket.objects()
    assert memlaw("plan", "--law", f"{OUT}/law", "--tokens", "9")[0]["rank"] >= 1

    result, words = memlaw(
        "remember", "data.jsonl", "--model", str(tiny_dir), "--rank", "1", "--steps", "5", "--out", "gs://lab/mine"
    )
    assert result["adapter"] == "gs://lab/mine/adapter" and "gs://lab/mine/results.jsonl" in words
    assert memlaw("recall", "gs://lab/mine/adapter", "--data", "data.jsonl")[0]["loss"] == pytest.approx(result["loss"])
    result, _ = memlaw("export", "gs://lab/mine/adapter", "--format", "torch", "--out", str(tmp_path / "torch"))
    assert all(Path(file).exists() for file in result["files"])
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "torch"])


@pytest.mark.parametrize("command", ["fit", "microscope", "recall --data x", "export --format torch --out x"])
def test_a_url_of_nobody_is_told(command: str) -> None:
    name, *options = command.split()
    with pytest.raises(UserError, match="ftp://lab/x: ftp:// is not known"):
        memlaw(name, "ftp://lab/x", *options)
