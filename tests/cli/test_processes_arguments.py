"""The arguments of a process that is one of several: what contradicts, lacks or exceeds is one sentence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import Memlaw

MISTAKES = [
    ("--processes 2", "belong together; add --coordinator and --process."),
    ("--coordinator 10.0.0.1:8476 --processes 2", "belong together; add --process."),
    ("--distributed --process 1", "--distributed finds everything in the environment; leave out --process."),
    ("--coordinator 10.0.0.1 --processes 2 --process 0", "10.0.0.1 is not HOST:PORT"),
    ("--coordinator 10.0.0.1:8476 --processes 2 --process 2", "no process 2 among 2; their indices are 0 to 1."),
    ("--coordinator 10.0.0.1:8476 --processes two --process 2", "invalid int value: 'two'"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES)
def test_mistakes_are_one_sentence(words: str, told: str, config: Path, tmp_path: Path, memlaw: Memlaw) -> None:
    said = memlaw("sweep", config, "--out", tmp_path / "out", *words.split())
    assert said.code == 2 and said.out == ""
    assert told in said.err and said.err.startswith("memlaw: error: ") and said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_commands_that_train_nothing_do_without_jax(python: str, child_environment: dict[str, str]) -> None:
    """The arguments are added to every parser, and whoever fits a law has no JAX to import."""
    code = "import sys; from memlaw_jax.cli.main import parser; parser(); print('jax' in sys.modules)"
    child = subprocess.run([python, "-c", code], env=child_environment, capture_output=True, text=True, check=True)
    assert child.stdout == "False\n"
