from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memlaw_jax.results import SCHEMA

IDENTITY = {"model": "0123456789abcdef", "task": "long_context", "lora": {"targets": ["mlp"], "alpha": None}}


@pytest.fixture
def identity() -> dict[str, Any]:
    return dict(IDENTITY)


def record(cell_id: str, **changes: Any) -> dict[str, Any]:
    """A cell's record as a sweep writes it."""
    return {
        "schema": SCHEMA,
        "protocol": "custom",
        "cell_id": cell_id,
        "model": "embedded",
        "task": "long_context",
        "dataset": "fedcba9876543210",
        "method": "sft",
        "rank": 4,
        "alpha": None,
        "targets": ["mlp"],
        "layers": [4],
        "effective_parameters": 2048,
        "length": 64,
        "samples": 1,
        "seed": 0,
        "learning_rate": 0.01,
        "steps": 400,
        "token_visits": 25600,
        "stopped": "budget",
        "loss_initial": 10.25,
        "loss_final": 3.5,
        "token_accuracy": 0.25,
        "exact_match": 0.0,
        "p_min": 0.001,
        "fraction_above_half": 0.1,
        "first_failure": 3.0,
        "seconds": 1.5,
        "precision": {"frozen": "float32", "adapter": "float32"},
        "device": "cpu",
        "mesh": {"adapters": 1},
        "versions": {"jax": "0.10.2"},
        "started": "2026-11-24T20:00:00+00:00",
        "git": "abc – naïve",  # a line longer in bytes than in characters
        **changes,
    }


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A cell's per-token arrays."""
    rng = np.random.default_rng(seed)
    return {"nats": rng.uniform(0, 5, 64).astype(np.float32), "right": rng.random(64) < 0.5}
