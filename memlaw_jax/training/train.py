"""One adapter on one set of records: the lane trainer with a single lane."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.objectives import Objective, Sft
from memlaw_jax.readout import Records, encode
from memlaw_jax.training.lanes import Cell, History, Listener, train_cells
from memlaw_jax.training.optim import OptimConfig


def train(
    base: Base,
    records: Records,
    *,
    lora: LoraConfig | None = None,
    objective: Objective | None = None,
    optim: OptimConfig | None = None,
    seed: int = 0,
    listen: Listener | None = None,
) -> tuple[Adapter, History]:
    """Trains one adapter to recall the records verbatim.

    Args:
      records: what to remember, in any form that `readout.encode` takes.

    Raises:
      UserError: a record or a setting that does not fit the model.
    """
    lora, optim = lora or LoraConfig(), optim or OptimConfig(steps=400)
    cell = Cell(lora=lora, seed=seed, learning_rate=optim.learning_rate)
    encoded = encode(base, records)
    (outcome,) = train_cells(base, encoded, [cell], objective=objective or Sft(), optim=optim, listen=listen)
    adapter = Adapter(
        lora=lora,
        layers=lora.adapted_layers(base.config),
        weights=jax.tree.map(jnp.asarray, outcome.weights),
        model=base.name,
        model_fingerprint=base.fingerprint,
    )
    return adapter, outcome.history
