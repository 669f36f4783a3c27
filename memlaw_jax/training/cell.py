"""A cell of the grid, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.objectives import Objective, Sft
from memlaw_jax.readout import RecallReport
from memlaw_jax.training.order import Curriculum
from memlaw_jax.training.step import Metrics

Stop = Literal["budget", "recalled", "certain"]
Skip = Literal["none", "saturated"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One adapter to train. Cells trained together share targets, layers, dropout and optimiser constants.

    `data` is the index of its data set among those that are trained on together.
    """

    lora: LoraConfig
    seed: int = 0
    learning_rate: float
    objective: Objective = field(default_factory=Sft)
    curriculum: Curriculum | None = None
    data: int = 0
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class History:
    """One value a step, before its update, over the step's samples.

    Attributes:
      objective: the loss that was differentiated, nats.
      loss: mean nats per answer token.
      accuracy: share of answer tokens that are the arg-max.
      above_half: share of answer tokens with p > ½.
      exact_match: share of samples with every arg-max right.
      active: share of the trained tokens with a weight above zero.
      gradient_norm: before any clip.
    """

    objective: Float[np.ndarray, " steps"]
    loss: Float[np.ndarray, " steps"]
    accuracy: Float[np.ndarray, " steps"]
    above_half: Float[np.ndarray, " steps"]
    exact_match: Float[np.ndarray, " steps"]
    active: Float[np.ndarray, " steps"]
    gradient_norm: Float[np.ndarray, " steps"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished cell.

    `stopped` is `budget`, `recalled` (before it), or `diverged` (a loss that is no finite number or has no gradient).
    `seconds` is the cell's share of the dispatches it took part in, `token_visits` the answer tokens
    it trained on.
    """

    cell: Cell
    weights: AdapterWeights = field(repr=False)
    initial: RecallReport
    final: RecallReport
    history: History = field(repr=False)
    steps: int
    token_visits: int
    stopped: str
    started: str
    seconds: float

    def adapter(self, base: Base) -> Adapter:
        """The adapter by itself, as it can be saved."""
        return Adapter(
            lora=self.cell.lora,
            layers=self.cell.lora.adapted_layers(base.config),
            weights=jax.tree.map(jnp.asarray, self.weights),
            model=base.name,
            model_fingerprint=base.fingerprint,
        )


Listener = Callable[[Cell, int, Metrics], None]
