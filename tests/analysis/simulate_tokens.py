"""Results folders with per-token arrays of a known truth, as a sweep writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def run_arrays(p, right=None, sample=None, **more):
    """The arrays of a run from its tokens' probabilities; by default exactly the tokens above ½ are right."""
    p = np.asarray(p, float)
    n = len(p)
    return {
        "nats_initial": np.full(n, 8.0, np.float32),
        "nats": -np.log(p).astype(np.float32),
        "right": np.asarray(p > 0.5 if right is None else right, bool),
        "sample": np.zeros(n, np.int32) if sample is None else np.asarray(sample, np.int32),
        "loss_history": np.zeros(7, np.float32),
        **more,
    }


def record(cell_id, arrays, **changes):
    right, sample = arrays["right"], arrays["sample"]
    base = {
        "cell_id": cell_id,
        "method": "sft",
        "rank": 4,
        "length": len(right),
        "seed": 0,
        "dataset": "d",
        "stopped": "budget",
        "loss_initial": float(arrays["nats_initial"].mean()),
        "loss_final": float(arrays["nats"].mean()),
        "token_accuracy": float(right.mean()),
        "exact_match": float(np.mean([right[sample == s].all() for s in np.unique(sample)])),
        "precision": {"frozen": "float32", "adapter": "float32"},
    }
    return base | changes


def write_folder(path, runs):
    """`runs`: pairs of arrays (None: no file) and changes to the record."""
    path = Path(path)
    (path / "tokens").mkdir(parents=True)
    lines = []
    for i, (arrays, changes) in enumerate(runs):
        name = f"{i:016x}"
        lines.append(json.dumps(record(name, arrays, **changes)) + "\n")
        np.savez_compressed(path / "tokens" / f"{name}.npz", **arrays)
    (path / "results.jsonl").write_text("".join(lines))
    return path


def softmax_tokens(rng, samples, width, strength, vocabulary=50, stubborn=()):
    """p and arg-max right of random logits whose target is raised by `strength`, so that the theorem holds by nature.

    `stubborn` positions of every sample are raised by a fifth of it.
    """
    logits = rng.standard_normal((samples, width, vocabulary)) * 1.5
    raised = np.full((samples, width), strength) + rng.standard_normal((samples, width))
    raised[:, list(stubborn)] *= 0.2
    logits[..., 0] += raised
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = weights[..., 0] / weights.sum(axis=-1)
    return p.ravel(), (logits.argmax(axis=-1) == 0).ravel()


def simulated_sweep(path, *, ranks=(1, 2, 4, 8), lengths=(40, 80), width=10, seeds=1, methods=("sft",), texts=True,
                    decode=False, frozen="float32", seed=0, strength=2.2):  # fmt: skip
    """A sweep in which p grows with log rank and falls with log length; `width` None puts a run into one sample."""
    runs = []
    for m, method in enumerate(methods):
        for i, rank in enumerate(ranks):
            for length in lengths:
                for s in range(seeds):
                    rng = np.random.default_rng([seed, m, rank, length, s])
                    wide = length if width is None else width
                    lift = strength * (1 + i) - 0.8 * np.log(length / lengths[0]) + 0.5 * m
                    p, right = softmax_tokens(rng, length // wide, wide, lift, stubborn=(wide // 3,))
                    sample = np.repeat(np.arange(length // wide), wide)
                    arrays = run_arrays(p, right, sample)
                    if texts:
                        labels = np.arange(length) % 97
                        arrays |= {"labels": labels.astype(np.int32), "pieces": np.array([f" t{i}" for i in labels])}
                    if decode:
                        arrays["free_right"] = free_running(rng, right, sample)
                    runs.append((arrays, {"rank": rank, "seed": s, "method": method,
                                          "precision": {"frozen": frozen, "adapter": "float32"}}))  # fmt: skip
    return write_folder(path, runs)


def free_running(rng, right, sample):
    """Greedy decoding of float32: right up to the first miss, then by luck."""
    free = right.copy()
    for s in np.unique(sample):
        rows = np.flatnonzero(sample == s)
        wrong = np.flatnonzero(~right[rows])
        if len(wrong):
            free[rows[wrong[0] + 1 :]] = rng.random(len(rows) - wrong[0] - 1) < 0.05
    return free
