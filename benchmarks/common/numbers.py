"""`paper.yaml`, and numbers as the tables print them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

HERE = Path(__file__).resolve().parents[1]
SAME = 1e-12
NAMES = {"qwen": "Qwen3-8B", "llama": "Llama-3.1-8B-Instruct"}


@functools.cache
def paper() -> Any:
    """Every number of the paper that we know."""
    return yaml.safe_load((HERE / "paper.yaml").read_text(encoding="utf-8"))


def mean_interval(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95 % interval by Student's t over seeds.

    None with a single one, and without any spread: equal outcomes of a coarse measure are no certainty.
    """
    given = np.array([value for value in values if value is not None], float)
    if len(given) < 2 or np.ptp(given) <= SAME:
        return float(given.mean()) if len(given) else math.nan, None
    half = stats.t.ppf(0.975, len(given) - 1) * stats.sem(given)
    return float(given.mean()), float(half)


def number(value: float | None, interval: tuple[float, float] | None = None, digits: int = 3) -> str:
    """A number with its 95 % interval, if there is one."""
    if value is None or not math.isfinite(value):
        return ""
    shown = f"{value:.{digits}g}"
    return shown if interval is None else f"{shown} [{interval[0]:.{digits}g}, {interval[1]:.{digits}g}]"


def percent(value: float | None, half: float | None = None) -> str:
    """A share of 1 in per cent, ± half the width of its interval."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{100 * value:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
