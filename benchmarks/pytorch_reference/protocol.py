"""The constants of the protocol, its optimiser and its schedule (PAPER.md, section 2), and what a training returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""`{module name: (A [d_in, r], B [r, d_out])}`; a bypass adds scale · x·A·B to what its module returns."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one adapter is trained; the defaults are the release's.

    Attributes:
      learning_rate: peak rate, at the first step; it falls linearly to 0, without warm-up.
      clip: largest norm of the gradient; None for no clip.
      dropout: share of the bypass' output that is dropped in training.
      scale: what x·A·B is multiplied by; 1 in the paper.
      state_dtype: of A, B and Adam's moments.
      seed: of the dropout.
    """

    learning_rate: float = 1e-2
    clip: float | None = 1.0
    dropout: float = 0.1
    scale: float = 1.0
    state_dtype: torch.dtype = torch.bfloat16
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One value a step, before its update, in nats, and the weights at the end.

    Attributes:
      objective: mean cross-entropy over the batch's trained tokens, which is what is differentiated.
      loss: mean over its counted answer tokens (the suffix is trained but not counted).
    """

    objective: np.ndarray
    loss: np.ndarray
    weights: Weights


# What the functions below do, in the words of memlaw_jax's records.
SCHEDULE, OPTIMIZER = "linear", "adamw beta1=0.9 beta2=0.999 eps=1e-08 weight_decay=0 clip=1"


def decay(step: int, total: int) -> float:
    """The rate of step 0, 1, … as a share of its peak."""
    return 1 - step / total


def optimiser(
    parameters: Iterable[torch.Tensor], settings: Settings, total: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with the release's constants and the linear decay."""
    adamw = torch.optim.AdamW(parameters, lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: decay(step, total))


def order(samples: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each step: a fresh shuffle each epoch, drawn as memlaw_jax draws it; an epoch's last batch may be short.

    A step that takes all samples reads them in the file's order.
    """
    per_epoch = -(-samples // batch)
    for step in range(steps):
        epoch, index = divmod(step, per_epoch)
        shuffled = np.random.default_rng([seed, epoch]).permutation(samples)
        yield np.sort(shuffled) if batch >= samples else shuffled[index * batch : (index + 1) * batch]


def cross_entropy(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nats of each label `[B, A]` from normalised hidden states `[B, A, D]` and the head `[V, D]`."""
    logits = wide(hidden @ head.T)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)


def wide(logits: torch.Tensor) -> torch.Tensor:
    """float32 at least; a float64 model, which judges rounding, keeps its own."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean where the mask is true, without asking the device which places those are."""
    return (values * mask).sum() / mask.sum()
