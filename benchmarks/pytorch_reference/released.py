"""The procedure of the release, waste included: the yardstick of the throughput benchmark.

Each step runs the model twice (the second time without the adapter, only to log it), takes logits at every position,
forms A·B as a D × D matrix, and asks the device for numbers several times (PAPER.md, section 2).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytorch_reference.bypass import attached, layer_of
from pytorch_reference.data import Data, collate
from pytorch_reference.protocol import Settings, Trained, Weights, optimiser, wide

COLUMNS = ("epoch", "step", "pos_steer_loss", "pos_ref_loss", "pos_steering_factors", "token_nums")
UNTRAINED = -100


def train(
    model: Any, data: Data, order: Iterable[np.ndarray], start: Weights, settings: Settings, log: Path | None = None
) -> Trained:
    """Trains the bypass of one MLP block.

    Args:
      model: a frozen Hugging Face causal language model.
      order: the samples' rows of each step.
      start: one MLP block's name with A and B, such as `{"model.layers.24.mlp": (a, b)}`.
      log: a CSV file that gets a row each step (COLUMNS, losses in nats over the trained tokens).
    """
    steps = list(order)
    ((name, pair),) = start.items()
    torch.manual_seed(settings.seed)
    objective, counted_loss, seen = [], [], 0
    with attached(model, layer_of(name), pair, settings, merged=True) as bypass:
        adamw, schedule = optimiser([bypass.a, bypass.b], settings, len(steps))
        bypass.train()
        for step, rows in enumerate(steps):
            tokens, attention, labels, counted = collate(data, rows, model.device, UNTRAINED)
            logits = model(input_ids=tokens, attention_mask=attention).logits
            nats = _nats(logits, labels)
            token_count = (labels != UNTRAINED).sum()
            loss = nats.sum() / token_count
            with torch.no_grad():
                bypass.on = False
                without = _nats(model(input_ids=tokens, attention_mask=attention).logits, labels).sum() / token_count
                bypass.on = True
            adamw.zero_grad()
            loss.backward()
            if settings.clip is not None:
                torch.nn.utils.clip_grad_norm_([bypass.a, bypass.b], settings.clip)
            adamw.step()
            schedule.step()
            row = (seen // len(data.tokens), step, loss.item(), without.item(), 1.0, token_count.item())
            objective.append(row[2])
            counted_loss.append(nats[counted].mean().item())
            if log:
                _append(log, row)
            seen += len(rows)
        weights = {name: (bypass.a.detach(), bypass.b.detach())}
    return Trained(objective=np.array(objective), loss=np.array(counted_loss), weights=weights)


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats of every position `[B, T]`, 0 where the label is not trained; position t is predicted at t − 1."""
    shifted = torch.nn.functional.pad(labels, (0, 1), value=UNTRAINED)[:, 1:]
    nats = torch.nn.functional.cross_entropy(
        wide(logits).flatten(0, 1), shifted.flatten(), ignore_index=UNTRAINED, reduction="none"
    ).view_as(labels)
    return torch.nn.functional.pad(nats, (1, 0))[:, :-1]  # back at the place of the label


def _append(log: Path, row: tuple[float, ...]) -> None:
    fresh = not log.exists()
    with log.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerow(row)
