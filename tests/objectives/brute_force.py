"""The objectives one token at a time, in Python floats, after the rules of the paper and of its release.

Where a rule compares, both sides are what float32 makes of them: a loss of float32(ln 2) is at the threshold of ½, not
above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np


@dataclass
class RowMemory:
    """What the sliding window remembers of one row: the last first error, its repeats so far, the window's stretch."""

    anchor: int | None = None
    repeats: int = 0
    stretch: float = 1.0


@dataclass
class Step:
    """One step of an objective: weights, whether they had amounted to nothing, the loss and its slope in each token."""

    weights: np.ndarray
    total: float
    loss: float = 0.0
    slope: np.ndarray = field(default_factory=lambda: np.zeros(0))


def only_threshold(
    nats: np.ndarray, mask: np.ndarray, *, threshold: float, when_empty: str, losses: str = "float32"
) -> Step:
    """MemFT-OT: 1 for a token whose loss is above that of a probability of `threshold`."""
    bound = float(np.float32(-math.log(threshold)))
    weights = np.zeros(mask.shape)
    for place in np.ndindex(mask.shape):
        if mask[place] and _compared(nats[place], losses) > bound:
            weights[place] = 1.0
    return _step(weights, nats, mask, when_empty)


def sliding_window(
    nats: np.ndarray, right: np.ndarray, mask: np.ndarray, memory: list[RowMemory], **constants: Any
) -> Step:
    """MemFT-SW: soft weights that decay from the row's first error to its window's end. `memory` changes in place."""
    weights = np.zeros(mask.shape)
    for row, remembered in enumerate(memory):
        errors = [slot for slot in range(mask.shape[1]) if mask[row, slot] and not right[row, slot]]
        anchor = errors[0] if errors else None
        _move(remembered, anchor, constants)
        for slot in range(mask.shape[1]):
            if mask[row, slot]:
                weights[row, slot] = _soft(nats[row, slot], constants) * _share(slot, anchor, remembered, constants)
    return _step(weights, nats, mask, constants["when_empty"])


def _move(memory: RowMemory, anchor: int | None, constants: dict[str, Any]) -> None:
    """The window grows while the same error stays first, from the `patience`-th repeat on."""
    memory.repeats = memory.repeats + 1 if anchor is not None and anchor == memory.anchor else 0
    if memory.repeats < constants["patience"]:
        memory.stretch = 1.0
    else:
        memory.stretch = min(memory.stretch + constants["expansion"], constants["cap"])
    memory.anchor = anchor


def _soft(nats: float, constants: dict[str, Any]) -> float:
    odds = constants["kappa"] * (_compared(nats, constants.get("losses", "float32")) + math.log(constants["threshold"]))
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


def _share(slot: int, anchor: int | None, memory: RowMemory, constants: dict[str, Any]) -> float:
    if anchor is None or slot <= anchor:
        return 1.0
    if slot - anchor < constants["window"] * memory.stretch:
        return math.exp(-(slot - anchor) / constants["tau"])
    return constants["floor"]


def _step(weights: np.ndarray, nats: np.ndarray, mask: np.ndarray, when_empty: str) -> Step:
    """With a total of 1e-5 or less, plain SFT or nothing; then the weighted mean, and its slopes w / Σw."""
    total = sum(weights.ravel().tolist())
    if total <= 1e-5:
        weights = mask.astype(float) if when_empty == "sft" else np.zeros(mask.shape)
    return Step(weights, total, *weighted_mean(nats, weights))


def weighted_mean(nats: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """`(Σ w·L / Σ w, its slope in each loss)` with the weights as constants; 0 and no slope without any weight."""
    total = sum(weights.ravel().tolist())
    slope, loss = np.zeros(weights.shape), 0.0
    for place in np.ndindex(weights.shape):
        if weights[place] > 0:
            slope[place] = weights[place] / total
            loss += slope[place] * float(nats[place])
    return loss, slope


def _compared(nats: float, losses: str) -> float:
    rounded = np.float32(nats)
    return float(rounded if losses == "float32" else rounded.astype(ml_dtypes.bfloat16))
