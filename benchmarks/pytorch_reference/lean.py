"""The same mathematics without the waste.

Everything below the adapter is frozen, so it runs once; each step runs the blocks above, on the positions that matter
to the head, with (x·A)·B, and nothing is asked of the device before the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from pytorch_reference.bypass import attached, layer_of
from pytorch_reference.data import Data
from pytorch_reference.protocol import Settings, Trained, Weights, cross_entropy, masked_mean, optimiser

FEATURE_TOKENS = 16_384  # tokens of one pass below the adapter, which bounds its activations

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Rows of the data set `[B]` to normalised hidden states `[B, T, D]`."""


class Targets(NamedTuple):
    """The data set's answer slots on the device; see `data.Data`."""

    answer_index: torch.Tensor
    labels: torch.Tensor
    answer_mask: torch.Tensor
    train_mask: torch.Tensor

    @classmethod
    def of(cls, data: Data, device: torch.device) -> Targets:
        index, labels = (torch.tensor(x, dtype=torch.long, device=device) for x in (data.answer_index, data.labels))
        masks = (torch.tensor(x, device=device) for x in (data.answer_mask, data.train_mask))
        return cls(index, labels, *masks)


def train(model: Any, data: Data, order: Iterable[np.ndarray], start: Weights, settings: Settings) -> Trained:
    """Trains the bypass of one MLP block; arguments as those of `released.train`."""
    ((name, pair),) = start.items()
    layer = layer_of(name)
    mlp_input, block_output = features(model, data, layer)
    with attached(model, layer, pair, settings) as bypass:

        def forward(rows: torch.Tensor) -> torch.Tensor:
            return above(model, layer, block_output[rows] + bypass.extra(mlp_input[rows]))

        bypass.train()
        torch.manual_seed(settings.seed)
        objective, loss = optimise(forward, model, data, order, [bypass.a, bypass.b], settings)
        weights = {name: (bypass.a.detach(), bypass.b.detach())}
    return Trained(objective=objective, loss=loss, weights=weights)


@torch.no_grad()
def features(model: Any, data: Data, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(the input of block `layer`'s MLP, that block's output without a bypass)` of all samples, both `[S, T, D]`."""
    samples, width = data.tokens.shape
    rows = max(1, FEATURE_TOKENS // width)
    parts = []
    for start in range(0, samples, rows):
        tokens = torch.tensor(data.tokens[start : start + rows], dtype=torch.long, device=model.device)
        hidden = run(model, model.model.embed_tokens(tokens), 0, layer)
        block = model.model.layers[layer]
        hidden = hidden + attend(model, block, hidden)
        mlp_input = block.post_attention_layernorm(hidden)
        parts.append((mlp_input, hidden + block.mlp(mlp_input)))
    inputs, outputs = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(outputs)


def above(model: Any, layer: int, hidden: torch.Tensor) -> torch.Tensor:
    """From block `layer`'s output to the head's input."""
    return model.model.norm(run(model, hidden, layer + 1, len(model.model.layers)))


def run(model: Any, hidden: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Blocks `start … stop − 1`."""
    for block in model.model.layers[start:stop]:
        hidden = hidden + attend(model, block, hidden)
        hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
    return hidden


def attend(model: Any, block: Any, hidden: torch.Tensor) -> torch.Tensor:
    """One block's attention. Rows are padded on the right, so the causal mask hides the padding too."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    rotary = model.model.rotary_emb(hidden, positions[None])
    window = getattr(block.self_attn, "sliding_window", getattr(model.config, "sliding_window", None))
    mask = None  # which is the plain causal one
    if window is not None and window < hidden.shape[1]:
        back = positions[:, None] - positions
        mask = ((back >= 0) & (back < window))[None, None]
    normed = block.input_layernorm(hidden)
    return block.self_attn(hidden_states=normed, position_embeddings=rotary, attention_mask=mask)[0]


def optimise(
    forward: Forward,
    model: Any,
    data: Data,
    order: Iterable[np.ndarray],
    parameters: list[torch.Tensor],
    settings: Settings,
) -> tuple[np.ndarray, np.ndarray]:
    """`(objective, loss)` of each step, read from the device once, at the end."""
    steps = [torch.tensor(rows, dtype=torch.long, device=model.device) for rows in order]
    adamw, schedule = optimiser(parameters, settings, len(steps))
    targets, head = Targets.of(data, model.device), model.get_output_embeddings().weight
    history = []
    for rows in steps:
        index, labels, counted, trained = (part[rows] for part in targets)
        hidden = forward(rows)
        answers = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))
        nats = cross_entropy(answers, head, labels)
        objective = masked_mean(nats, trained)
        adamw.zero_grad()
        objective.backward()
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        adamw.step()
        schedule.step()
        history.append(torch.stack((objective.detach(), masked_mean(nats.detach(), counted))))
    objective, loss = torch.stack(history).double().cpu().numpy().T
    return objective, loss
