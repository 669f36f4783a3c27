"""One adapter trained twice from the same start, on the same data, in the same order: by memlaw_jax and by PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
import peft
import torch
from pytorch_reference import lean, linear, released
from pytorch_reference.evaluate import Recall, adapted_recall, recall
from pytorch_reference.protocol import Settings, Trained, Weights
from transformers import AutoModelForCausalLM

from memlaw_jax.models import Base, DecoderConfig, LoraConfig, init_adapter
from memlaw_jax.models.lora import PATHS, AdapterWeights
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Cell, OptimConfig, Outcome, train_cells
from memlaw_jax.training.order import Order

Mode = Literal["released", "lean", "peft"]


@dataclass(frozen=True, kw_only=True)
class Ours:
    """What memlaw_jax made of a cell, with the objective of each step, which a history leaves out."""

    outcome: Outcome
    objective: np.ndarray
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The reference against ours.

    Attributes:
      loss: of each step, |ours − theirs| / theirs of the mean nats per answer token.
      objective: the same of the mean nats per trained token.
      a, b, product: ‖ours − theirs‖ / ‖theirs‖ (Frobenius, over all modules) of A, B and A·B at the end.
    """

    loss: np.ndarray
    objective: np.ndarray
    a: float
    b: float
    product: float


def train_ours(base: Base, encoded: Encoded, cell: Cell, optim: OptimConfig) -> Ours:
    """Trains one cell through the lane trainer."""
    (outcome,) = train_cells(base, encoded, [cell], optim=optim)
    return Ours(
        outcome=outcome,
        objective=outcome.history.objective,
        weights=to_torch(base.config, cell.lora, outcome.weights),
    )


def train_reference(
    model: Any, base: Base, encoded: Encoded, cell: Cell, optim: OptimConfig, mode: Mode, **change: Any
) -> Trained:
    """Trains the same cell in PyTorch, in the model's dtype; `change` are other `Settings` than the cell's."""
    fresh = init_adapter(base.config, cell.lora, jax.random.key(cell.seed))
    start = to_torch(base.config, cell.lora, fresh)
    steps = list(rows(encoded, cell, optim))
    settings = reference_settings(cell, optim, model, **change)
    if mode == "peft":
        return linear.train(model, encoded, steps, peft_config(base.config, cell.lora), settings, start)
    return (released if mode == "released" else lean).train(model, encoded, steps, start, settings)


def reference_settings(cell: Cell, optim: OptimConfig, model: Any, **change: Any) -> Settings:
    """A cell's settings in the reference's words."""
    values = {
        "learning_rate": cell.learning_rate,
        "clip": optim.clip,
        "dropout": 0.0,
        "scale": cell.lora.scale,
        "state_dtype": torch.bfloat16 if optim.state == "bfloat16" else model.dtype,
        "seed": cell.seed,
    }
    return Settings(**(values | change))


def rows(encoded: Encoded, cell: Cell, optim: OptimConfig) -> Iterator[np.ndarray]:
    """The samples of each step, from our own order."""
    samples, total = len(encoded.tokens), optim.total_steps(len(encoded.tokens))
    batch = optim.batch(samples)
    if batch >= samples:
        yield from [np.arange(samples)] * total
        return
    for picked in Order(seed=cell.seed, samples=samples, batch=batch).rows(0, total):
        yield picked[picked >= 0]


def evaluate(model: Any, base: Base, encoded: Encoded, cell: Cell, weights: Weights | None) -> Recall:
    """The reference's exit evaluation, without an adapter or under one."""
    if weights is None:
        return recall(model, encoded)
    settings = reference_settings(cell, OptimConfig(steps=1), model)
    config = None if cell.lora.targets == ("mlp",) else peft_config(base.config, cell.lora)
    return adapted_recall(model, encoded, weights, settings, config)


def compare(ours: Ours, theirs: Trained) -> Difference:
    """How far the two are apart."""
    pairs = [
        (tuple(map(_double, ours.weights[name])), tuple(map(_double, theirs.weights[name]))) for name in ours.weights
    ]
    return Difference(
        loss=np.abs(ours.outcome.history.loss - theirs.loss) / theirs.loss,
        objective=np.abs(ours.objective - theirs.objective) / theirs.objective,
        a=_distance([(one[0], other[0]) for one, other in pairs]),
        b=_distance([(one[1], other[1]) for one, other in pairs]),
        product=_distance([(one[0] @ one[1], other[0] @ other[1]) for one, other in pairs]),
    )


def load_torch(base: Base, dtype: torch.dtype = torch.float32) -> Any:
    """The same checkpoint in transformers, frozen."""
    model = AutoModelForCausalLM.from_pretrained(str(base.directory), dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def to_torch(config: DecoderConfig, lora: LoraConfig, weights: AdapterWeights) -> Weights:
    """Our stacked arrays as A and B of each module."""
    found: Weights = {}
    for target in lora.targets:
        module = weights
        for name in PATHS[target]:
            module = module[name]
        for index, layer in enumerate(lora.adapted_layers(config)):
            a, b = (torch.tensor(np.asarray(module[part][index], np.float32)) for part in ("a", "b"))
            found[".".join(("model.layers", str(layer), *PATHS[target]))] = (a, b)
    return found


def peft_config(config: DecoderConfig, lora: LoraConfig) -> peft.LoraConfig:
    """The same adapter in PEFT's words."""
    alpha = lora.scale * (math.sqrt(lora.rank) if lora.init == "rslora" else lora.rank)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        use_rslora=lora.init == "rslora",
        target_modules=list(lora.targets),
        layers_to_transform=list(lora.adapted_layers(config)),
        lora_dropout=0.0,
    )


def _double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()


def _distance(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    apart = sum(float(((one - other) ** 2).sum()) for one, other in pairs)
    return math.sqrt(apart / sum(float((other**2).sum()) for _, other in pairs))
