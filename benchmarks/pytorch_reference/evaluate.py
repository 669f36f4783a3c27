"""What a model recalls, teacher-forced, in evaluation mode: the losses and accuracies of a cell's record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pytorch_reference import bypass
from pytorch_reference.data import Data, collate
from pytorch_reference.protocol import Settings, Weights, wide

if TYPE_CHECKING:
    import peft

TOKENS = 4096  # tokens of one pass, which bounds the logits held


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Means over counted answer tokens (`loss` in nats, `token_accuracy`) and over samples (`exact_match`).

    `nats` and `right` `[S, A]` are those of every answer slot.
    """

    loss: float
    token_accuracy: float
    exact_match: float
    nats: np.ndarray
    right: np.ndarray


@torch.no_grad()
def recall(model: Any, data: Data) -> Recall:
    """Scores the answer tokens of all samples. Greedy decoding reproduces a sample where every arg-max is right."""
    at_once = max(1, TOKENS // data.tokens.shape[1])
    nats, right = np.zeros(data.labels.shape, np.float32), np.zeros(data.labels.shape, bool)
    for start in range(0, len(data.tokens), at_once):
        rows = np.arange(start, min(start + at_once, len(data.tokens)))
        tokens, attention, _, _ = collate(data, rows, model.device)
        logits = model(input_ids=tokens, attention_mask=attention).logits
        index = torch.tensor(data.answer_index[rows], dtype=torch.long, device=model.device)
        labels = torch.tensor(data.labels[rows], dtype=torch.long, device=model.device)
        logits = logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1]))
        nats[rows] = -wide(logits).log_softmax(-1).gather(-1, labels[..., None])[..., 0].cpu().numpy()
        right[rows] = (logits.argmax(-1) == labels).cpu().numpy()
    mask = data.answer_mask
    return Recall(
        loss=float(nats[mask].mean(dtype=np.float64)),
        token_accuracy=float(right[mask].mean()),
        exact_match=float((right | ~mask).all(axis=1).mean()),
        nats=nats,
        right=right,
    )


def adapted_recall(
    model: Any, data: Data, weights: Weights, settings: Settings, config: peft.LoraConfig | None = None
) -> Recall:
    """`recall` under an adapter: a bypass, or PEFT's layers where its configuration is given."""
    if config is None:
        ((name, pair),) = weights.items()
        with bypass.attached(model, bypass.layer_of(name), pair, settings) as adapter:
            adapter.eval()
            return recall(model, data)
    from pytorch_reference import linear

    with linear.wrapped(model, config, settings) as adapted:
        linear.load(adapted, weights)
        adapted.eval()
        return recall(model, data)
