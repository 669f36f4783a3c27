"""Parity with PyTorch: these tests are skipped where torch or peft is not installed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memlaw_jax.models import Base

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the PyTorch reference is no part of the package


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """`checkpoint(name)`: a tiny model of `tests/models/tiny.py` that takes 256 tokens, or the embedded base."""
    from models import tiny

    from memlaw_jax.models import load_base

    @functools.cache
    def load(name: str) -> Base:
        if name == "embedded":
            return load_base("embedded")
        raw = tiny.CASES[name] | {"max_position_embeddings": 256}
        return load_base(str(tiny.write(tmp_path_factory.mktemp(name) / "model", name, raw=raw)))

    return load
