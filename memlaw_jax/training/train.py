"""One adapter on one set of records: the lane trainer with a single lane."""

from __future__ import annotations

from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.objectives import Objective, Sft
from memlaw_jax.readout import Records, encode
from memlaw_jax.training.cell import Cell, History, Listener, Stop
from memlaw_jax.training.lanes import train_cells
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.order import Curriculum


def train(
    base: Base,
    records: Records,
    *,
    lora: LoraConfig | None = None,
    objective: Objective | None = None,
    optim: OptimConfig | None = None,
    curriculum: Curriculum | None = None,
    stop: Stop = "budget",
    seed: int = 0,
    listen: Listener | None = None,
) -> tuple[Adapter, History]:
    """Trains one adapter to recall the records verbatim.

    Args:
      records: what to remember, in any form that `readout.encode` takes.
      stop: when to end before the steps are spent: see `train_cells`.

    Raises:
      UserError: a record or a setting that does not fit the model.
    """
    lora, optim = lora or LoraConfig(), optim or OptimConfig(steps=400)
    cell = Cell(
        lora=lora,
        seed=seed,
        learning_rate=optim.learning_rate,
        objective=objective or Sft(),
        curriculum=curriculum,
    )
    (outcome,) = train_cells(base, encode(base, records), [cell], optim=optim, stop=stop, listen=listen)
    return outcome.adapter(base), outcome.history
