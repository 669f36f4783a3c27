"""The paper's adapter: one rank-r bypass of one whole MLP block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pytorch_reference.protocol import Settings


def paper_layer(layers: int) -> int:
    """The block two thirds of the way up (24 of 36 in Qwen3-8B), zero-based."""
    return min(layers * 2 // 3, layers - 1)


def layer_of(name: str) -> int:
    """24 of `model.layers.24.mlp`."""
    return int(name.split(".")[2])


def draw(width: int, rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[width, rank]` from U(−1/√r, 1/√r), and B = 0, float32.

    Kaiming-uniform initialisation with a = √5 on a `[d, r]` matrix takes r for the fan-in, hence the bound.
    """
    generator = torch.Generator().manual_seed(seed)
    a = torch.empty(width, rank).uniform_(-(rank**-0.5), rank**-0.5, generator=generator)
    return a, torch.zeros(rank, width)


class Bypass(nn.Module):
    """An MLP block with `dropout(scale · x·A·B)` added to its output, at every position.

    Args:
      start: A `[D, r]` and B `[r, D]`; copied, and kept as parameters in the settings' dtype.
      merged: form the D × D matrix A·B first and multiply by that, as the release does.
    """

    def __init__(
        self, mlp: nn.Module, start: tuple[torch.Tensor, torch.Tensor], settings: Settings, *, merged: bool = False
    ):
        super().__init__()
        self.mlp, self.settings, self.merged, self.on = mlp, settings, merged, True
        device = next(mlp.parameters()).device
        self.a, self.b = (nn.Parameter(part.clone().to(device, settings.state_dtype)) for part in start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, T, D]` to `[B, T, D]`; without the bypass where `on` is False."""
        return self.mlp(x) + self.extra(x) if self.on else self.mlp(x)

    def extra(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the block's output."""
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        y = x @ (a @ b) if self.merged else (x @ a) @ b
        return nn.functional.dropout(self.settings.scale * y, self.settings.dropout, self.training)


@contextmanager
def attached(
    model: nn.Module,
    layer: int,
    start: tuple[torch.Tensor, torch.Tensor],
    settings: Settings,
    *,
    merged: bool = False,
) -> Iterator[Bypass]:
    """The model with a bypass of block `layer`'s MLP; the model is as before afterwards."""
    block = model.model.layers[layer]
    block.mlp = Bypass(block.mlp, start, settings, merged=merged)
    try:
        yield block.mlp
    finally:
        block.mlp = block.mlp.mlp
