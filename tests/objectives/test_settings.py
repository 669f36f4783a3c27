"""Impossible settings of an objective are errors that name the key and the value."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.objectives import OBJECTIVES, MemFTOT, MemFTSW

IMPOSSIBLE: list[tuple[str, Any]] = [
    ("threshold", 0.0),
    ("threshold", 1.0),
    ("threshold", -0.5),
    ("threshold", math.nan),
    ("when_empty", "none"),
    ("losses", "float16"),
]
OF_THE_WINDOW: list[tuple[str, Any]] = [
    ("kappa", 0.0),
    ("kappa", math.inf),
    ("tau", 0.0),
    ("tau", math.nan),
    ("window", 0),
    ("window", 2.5),
    ("floor", -0.01),
    ("floor", 1.5),
    ("patience", 0),
    ("expansion", -0.5),
    ("cap", 0.5),
    ("cap", math.inf),
    ("state_of", "batch"),
]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(MemFTOT, *case) for case in IMPOSSIBLE] + [(MemFTSW, *case) for case in IMPOSSIBLE + OF_THE_WINDOW],
)
def test_an_impossible_value_is_named(kind: Any, key: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        kind(**{key: value})
    assert f"method {kind.name}: {key} is {value!r}" in str(error.value)


@pytest.mark.parametrize("kind", OBJECTIVES.values())
def test_an_unknown_setting_is_named(kind: Any) -> None:
    with pytest.raises(UserError, match=f"method {kind.name} has no setting 'speed'"):
        kind(speed=2)


def test_a_preset_checks_its_value_too() -> None:
    with pytest.raises(UserError, match="when_empty is 'none'"):
        MemFTOT.release("none")  # type: ignore[arg-type]


def test_edges_are_allowed() -> None:
    MemFTSW(floor=0.0, cap=1.0, expansion=0.0, window=1, patience=1)
    MemFTSW(floor=1.0, threshold=0.999)
