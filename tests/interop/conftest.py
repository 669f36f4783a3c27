from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, load_base

Bases = Callable[[str], Base]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """`bases(name)`: a tiny checkpoint in float32, written and read once."""

    @functools.cache
    def load(name: str) -> Base:
        return load_base(tiny.write(tmp_path_factory.mktemp("base") / name, name))

    return load


@pytest.fixture(scope="session")
def qwen3(bases: Bases) -> Base:
    """Four layers, untied."""
    return bases("qwen3")


@pytest.fixture
def refuses() -> Callable[..., None]:
    """`refuses(function, *words)`: a UserError of one sentence that names all of them."""

    def check(function: Callable[[], object], *words: str | Path) -> None:
        with pytest.raises(UserError) as error:
            function()
        text = str(error.value)
        assert len(text.splitlines()) == 1 and len(text) < 500, text
        for word in words:
            assert str(word) in text, text

    return check
