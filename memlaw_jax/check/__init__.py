"""Whether a sweep fits hardware that nobody here owns, and how fast it should be there."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memlaw_jax.check.flags import GROUPS, flag_environment
from memlaw_jax.check.hardware import Chip, Hardware, find_hardware

if TYPE_CHECKING:
    from memlaw_jax.check.grid import predict_grid, predict_grids
    from memlaw_jax.check.grid_report import GridPrediction, GridTotals

_OF_GRIDS = ("GridPrediction", "GridTotals", "predict_grid", "predict_grids")  # which need JAX

__all__ = [
    "GROUPS",
    "Chip",
    "GridPrediction",
    "GridTotals",
    "Hardware",
    "find_hardware",
    "flag_environment",
    "predict_grid",
    "predict_grids",
]


def __getattr__(name: str) -> Any:
    if name in _OF_GRIDS:
        return getattr(importlib.import_module("memlaw_jax.check.grid"), name)
    raise AttributeError(f"module 'memlaw_jax.check' has no attribute {name!r}")
