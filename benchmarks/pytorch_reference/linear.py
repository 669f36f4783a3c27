"""Linear layers adapted by the real `peft` library, in the loop of `lean`, without its cache."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import peft
import torch

from pytorch_reference import lean
from pytorch_reference.data import Data
from pytorch_reference.protocol import Settings, Trained, Weights

PREFIX = "base_model.model."


def train(
    model: Any,
    data: Data,
    order: Iterable[np.ndarray],
    config: peft.LoraConfig,
    settings: Settings,
    start: Weights | None = None,
) -> Trained:
    """Trains the adapter that a PEFT configuration describes; `start` replaces PEFT's own initialisation.

    Rank, alpha, targets and dropout (PEFT's, on the bypass' input) are the configuration's.
    """
    torch.manual_seed(settings.seed)
    with wrapped(model, config, settings) as adapted:
        if start is not None:
            load(adapted, start)
        adapted.train()
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]

        tokens = torch.tensor(data.tokens, dtype=torch.long, device=model.device)

        def forward(rows: torch.Tensor) -> torch.Tensor:
            return adapted.get_base_model().model(input_ids=tokens[rows], use_cache=False).last_hidden_state

        objective, loss = lean.optimise(forward, model, data, order, parameters, settings)
        weights = {name: (a.detach().T, b.detach().T) for name, (a, b) in pairs(adapted).items()}
    return Trained(objective=objective, loss=loss, weights=weights)


@contextmanager
def wrapped(model: Any, config: peft.LoraConfig, settings: Settings) -> Iterator[peft.PeftModel]:
    """The model inside PEFT, its adapter in the settings' dtype; the model is as before afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT calls what newer transformers have renamed
        adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    for a, b in pairs(adapted).values():
        a.data, b.data = a.data.to(settings.state_dtype), b.data.to(settings.state_dtype)
    try:
        yield adapted
    finally:
        adapted.eval()
        adapted.unload()


def pairs(adapted: peft.PeftModel) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """`{module name: (lora_A [r, d_in], lora_B [d_out, r])}` as PEFT keeps them."""
    return {
        name.removeprefix(PREFIX): (module.lora_A["default"].weight, module.lora_B["default"].weight)
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }


@torch.no_grad()
def load(adapted: peft.PeftModel, weights: Weights) -> None:
    """Copies A `[d_in, r]` and B `[r, d_out]` of every adapted module into PEFT's."""
    places = pairs(adapted)
    if set(places) != set(weights):
        raise ValueError(f"the start and the adapter differ at {sorted(set(places) ^ set(weights))[0]}")
    for name, (a, b) in places.items():
        a.copy_(weights[name][0].T)
        b.copy_(weights[name][1].T)
