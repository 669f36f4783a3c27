"""A memlaw_jax adapter on a PyTorch model, by forward hooks: `handle = attach(model, directory)`, `handle.remove()`.

For adapters that PEFT has no form for (the paper's bypass of a whole MLP block), and for those it has one for alike.
This file needs torch and safetensors and nothing else: copy it wherever the adapter goes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

WEIGHTS, META = "adapter.safetensors", "memlaw_adapter.json"


class Attached:
    """The hooks of one adapter; `remove()` gives the model back as it was, and so does leaving a `with` block."""

    def __init__(self, handles: list[Any]):
        self._handles = handles

    def remove(self) -> None:
        """Takes every hook off; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def attach(model: torch.nn.Module, directory: str | Path) -> Attached:
    """Adds scale·x·A·B to the output of every adapted module, x being that module's input.

    Args:
      model: a Hugging Face decoder, wrapped in anything or not; its blocks are found by their parts.
      directory: what `Adapter.save` or `memlaw export --format torch` wrote.

    Raises:
      ValueError: no such adapter, no such layer, or a module of another width; the model is then left as it was.
    """
    scale, layers, tensors = _read(Path(directory))
    blocks = _blocks(model)
    hooks = []
    for name in sorted({key.rsplit(".", 1)[0] for key in tensors}):
        a, b = _pair(tensors, name, len(layers))
        for index, layer in enumerate(layers):
            module = _module(blocks, layer, name)
            _check_widths(module, f"{name} of layer {layer}", a.shape[1], b.shape[2])
            hooks.append((module, _Bypass(a[index], b[index] * scale)))
    return Attached([module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks])


class _Bypass:
    """The hook: output + (x·A)·B in x's dtype. The float32 masters are cast anew when x's dtype or device changes."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor):
        self._masters = self._cast = (a, b)

    def __call__(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        if (self._cast[0].dtype, self._cast[0].device) != (x.dtype, x.device):
            with torch.inference_mode(False):  # a copy made in inference mode could never be trained through
                a, b = (master.to(x.device, x.dtype) for master in self._masters)
            self._cast = a, b
        a, b = self._cast
        return output + (x @ a) @ b


def _read(directory: Path) -> tuple[float, list[int], dict[str, torch.Tensor]]:
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{directory} is no memlaw_jax adapter: it lacks {META} or {WEIGHTS}.") from None
    except Exception as error:  # safetensors' own error has no public name under safetensors.torch
        raise ValueError(f"the adapter in {directory} is corrupt ({error}).") from None
    if not isinstance(meta, dict) or "layers" not in meta:
        raise ValueError(f"the adapter in {directory} is corrupt ({META} lacks layers).")
    if "scale" not in meta:
        raise ValueError(
            f"{directory / META} is from a version that stored no scale; load it in memlaw_jax and save it again."
        )
    return float(meta["scale"]), list(meta["layers"]), {key: value.float() for key, value in tensors.items()}


def _pair(tensors: dict[str, torch.Tensor], name: str, layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(A [layers, d_in, r], B [layers, r, d_out])` of a module in all its layers."""
    a, b = tensors.get(f"{name}.a"), tensors.get(f"{name}.b")
    if a is None or b is None:
        raise ValueError(f"the adapter holds only one of A and B for {name}.")
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != b.shape[1] or not a.shape[0] == b.shape[0] == layers:
        raise ValueError(
            f"the adapter's {name} has shapes {list(a.shape)} and {list(b.shape)}, which do not fit {layers} layers."
        )
    return a, b


def _blocks(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The list of decoder blocks, however deep the model is wrapped."""
    found = {
        name: module
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] == "layers"
        and isinstance(module, torch.nn.ModuleList)
        and all(hasattr(block, "self_attn") and hasattr(block, "mlp") for block in module)
    }
    if len(found) != 1:
        what = f"several stacks of decoder blocks ({', '.join(found)})" if found else "no decoder blocks (model.layers)"
        raise ValueError(f"{type(model).__name__} has {what}; pass the language model that the adapter belongs to.")
    return next(iter(found.values()))


def _module(blocks: torch.nn.ModuleList, layer: int, name: str) -> torch.nn.Module:
    if layer >= len(blocks):
        raise ValueError(f"the adapter has layer {layer}, but this model's layers are 0 to {len(blocks) - 1}.")
    try:
        return blocks[layer].get_submodule(name)
    except AttributeError:
        raise ValueError(f"layer {layer} of this model has no {name}, which the adapter changes.") from None


def _check_widths(module: torch.nn.Module, where: str, d_in: int, d_out: int) -> None:
    """Linear layers tell their widths; an MLP block's are those of its first and last layer."""
    first, last = getattr(module, "gate_proj", module), getattr(module, "down_proj", module)
    widths = getattr(first, "in_features", d_in), getattr(last, "out_features", d_out)
    if widths != (d_in, d_out):
        raise ValueError(f"{where} goes from {widths[0]} to {widths[1]}, but the adapter's from {d_in} to {d_out}.")
