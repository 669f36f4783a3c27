"""One cell of a grid: trained, evaluated, and told as a record that `memlaw fit` and `memlaw compare` read."""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from pytorch_reference import lean, protocol, released
from pytorch_reference.bypass import draw
from pytorch_reference.data import SYSTEM, Data, Mistake
from pytorch_reference.evaluate import adapted_recall, recall
from pytorch_reference.protocol import DTYPES, Settings, Trained

Train = Callable[[list[np.ndarray], Settings], Trained]
PAPER = {
    "learning_rate": 1e-2,
    "dropout": 0.1,
    "state_dtype": "bfloat16",
    "dtype": "bfloat16",
    "system": SYSTEM,
    "steps": 2000,  # of one long sequence
    "epochs": 200,  # of a phone book
}


def paper_batch(family: str, length: int) -> int:
    """Samples a step of the paper's phone books, by model family and answer tokens."""
    if family == "llama":
        return 10 if length <= 16_000 else 20
    return 4 if length <= 4000 else 8 if length <= 24_000 else 16


def run_cell(model: Any, data: Data, rank: int, layer: int, given: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates one adapter by the command line's settings; returns its record."""
    samples, length = len(data.tokens), int(data.answer_mask.sum())
    batch = min(samples, given.batch_size or paper_batch(model.config.model_type, length))
    epochs = given.epochs or (PAPER["epochs"] if given.data and not given.steps else None)
    steps = epochs * math.ceil(samples / batch) if epochs else given.steps or PAPER["steps"]
    settings = Settings(
        learning_rate=given.learning_rate,
        dropout=given.dropout,
        state_dtype=DTYPES[given.state_dtype],
        seed=given.seed,
    )
    linear = given.mode == "peft"
    config, train = _peft(model, data, rank, given) if linear else (None, _bypass(model, data, rank, layer, given))
    order = list(protocol.order(samples, batch, steps, given.seed))
    initial = recall(model, data)
    began = time.perf_counter()
    trained = train(order, settings)
    seconds = time.perf_counter() - began  # the losses have come from the device, so it is done
    final = adapted_recall(model, data, trained.weights, settings, config)
    finite = bool(np.isfinite(trained.objective).all() and np.isfinite(final.loss))
    return {
        "protocol": "paper" if given.mode != "peft" and given.dropout == PAPER["dropout"] else "custom",
        "implementation": f"pytorch {given.mode}",
        "model": given.model,
        "task": given.task if given.data else "long_context",
        "method": "sft",
        "rank": rank,
        "alpha": given.alpha if linear else None,
        "init": "peft" if linear else "paper",
        "dropout": given.dropout,
        "targets": list(given.targets) if linear else ["mlp"],
        "layers": list(range(model.config.num_hidden_layers)) if linear else [layer],
        "effective_parameters": sum(a.numel() + b.numel() for a, b in trained.weights.values()),
        "length": length,
        "samples": samples,
        "seed": given.seed,
        "learning_rate": given.learning_rate,
        "schedule": protocol.SCHEDULE,
        "batch_size": batch,
        "optimizer": protocol.OPTIMIZER,
        "steps": steps,
        "stopped": "budget" if finite else "diverged",
        "loss_initial": initial.loss,
        "loss_final": final.loss if math.isfinite(final.loss) else None,
        "token_accuracy": final.token_accuracy,
        "exact_match": final.exact_match,
        "seconds": round(seconds, 3),
        "precision": {"frozen": given.dtype, "adapter": given.state_dtype},
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
    }


def _bypass(model: Any, data: Data, rank: int, layer: int, given: argparse.Namespace) -> Train:
    start = {f"model.layers.{layer}.mlp": draw(model.config.hidden_size, rank, given.seed)}
    if given.mode == "lean":
        return lambda order, settings: lean.train(model, data, order, start, settings)
    length = int(data.answer_mask.sum())
    folder = given.out / f"length_{length}" / f"layer_{layer}" / f"rank_{rank}"

    def train(order: list[np.ndarray], settings: Settings) -> Trained:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "train_losses.csv"  # becomes losses.csv when the run is over
        log.unlink(missing_ok=True)
        trained = released.train(model, data, order, start, settings, log)
        log.replace(folder / "losses.csv")
        return trained

    return train


def _peft(model: Any, data: Data, rank: int, given: argparse.Namespace) -> tuple[Any, Train]:
    try:
        import peft

        from pytorch_reference import linear
    except ImportError:
        raise Mistake("--mode peft needs the peft library; run `pip install peft`.") from None
    config = peft.LoraConfig(
        r=rank, lora_alpha=given.alpha, lora_dropout=given.dropout, target_modules=list(given.targets)
    )
    return config, lambda order, settings: linear.train(model, data, order, config, settings)
