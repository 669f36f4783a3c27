from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from . import lab

if TYPE_CHECKING:
    from memlaw_jax.models import Base
    from memlaw_jax.tasks import Encoded
    from memlaw_jax.training import Outcome


@pytest.fixture(scope="session")
def sequence(base: Base) -> Encoded:
    return lab.sequence(base)


@pytest.fixture(scope="session")
def book(base: Base) -> Encoded:
    return lab.book(base)


@pytest.fixture(scope="session")
def together(base: Base, sequence: Encoded) -> Callable[[], dict[str, Outcome]]:
    """The five cells in five lanes, run once; a function, so that the module's compiler settings hold."""
    found: dict[str, Outcome] = {}

    def outcomes() -> dict[str, Outcome]:
        if not found:
            found.update(lab.run(base, sequence, lab.cells()))
        return found

    return outcomes
