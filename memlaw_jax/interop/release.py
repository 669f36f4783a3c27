"""The adapters of the paper's PyTorch release: `layer_<L>.pt`, the bypass of one MLP block each (PAPER.md, section 2).

Each is a pickled dictionary with lora_A [D, R] and lora_B [R, D]; the block's output gains x·A·B, and the `alpha`
beside them is never multiplied in. The release stores bfloat16.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.interop.files import refuse_model, writing
from memlaw_jax.interop.modules import Pair, Pairs, join, split, whole
from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.models.lora import MLP

_NAME = re.compile(r"layer_(\d+)\.pt")
_NEEDED = ("lora_A", "lora_B", "r", "intervention_components")


def to_release(adapter: Adapter, directory: str | epath.PathLike) -> list[epath.Path]:
    """Writes one `layer_<L>.pt` a layer, float32, our scale folded into B; returns the files.

    Raises:
      UserError: linear targets, which the release lacks; no torch; a folder with other layers or a model in it.
    """
    path, torch = epath.Path(directory), _torch()
    if adapter.lora.targets != (MLP,):
        raise UserError(
            f"the adapter's targets are {', '.join(adapter.lora.targets)}, but the paper's release knows the mlp "
            "bypass alone; use to_peft (`memlaw export --format peft`)."
        )
    refuse_model(path)
    others = sorted({file.name for file in path.glob("layer_*.pt")} - {_file(layer) for layer in adapter.layers})
    if others:
        raise UserError(f"{path} holds {others[0]} of another adapter; choose another folder.")
    written = []
    with writing(path):
        for (layer, target), pair in split(adapter).items():
            a, b = pair if pair[0].shape[1] else whole(adapter)[layer, target]
            content = {
                "lora_A": torch.from_numpy(a.copy()),
                "lora_B": torch.from_numpy((b * np.float64(adapter.lora.scale)).astype(np.float32)),
                "r": a.shape[1],
                "alpha": a.shape[1],
                "intervention_components": MLP,
                "concept_id": 0,
            }
            stream = io.BytesIO()
            torch.save(content, stream)
            (path / _file(layer)).write_bytes(stream.getvalue())
            written.append(path / _file(layer))
    return written


def from_release(path: str | epath.PathLike, base: Base) -> Adapter:
    """Reads a `layer_<L>.pt`, or all of a folder as one adapter; unequal ranks are padded with zeros. Its scale is 1.

    Raises:
      UserError: no torch; no such file; a file that is no such dictionary, or of a layer or width that the base lacks.
    """
    path, torch = epath.Path(path), _torch()
    if not path.exists():
        raise UserError(f"there is no {path}; give a layer_<L>.pt of the release or a folder with some.")
    files = sorted(path.glob("layer_*.pt")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no layer_<L>.pt.")
    pairs: Pairs = {}
    for file in files:
        layer = _layer(file)
        if layer >= base.config.num_layers:
            raise UserError(
                f"{file} is of layer {layer}, but the model's layers are 0 to {base.config.num_layers - 1}."
            )
        if (layer, MLP) in pairs:
            raise UserError(f"{path} holds layer {layer} twice.")
        pairs[layer, MLP] = _pair(file, _load(torch, file), base.config.hidden_size)
    rank = max(b.shape[0] for _, b in pairs.values())
    layers = tuple(sorted(layer for layer, _ in pairs))
    return join(pairs, LoraConfig(rank=rank, targets=(MLP,), layers=layers, init="paper"), base)


def _pair(file: epath.Path, content: dict[str, Any], width: int) -> Pair:
    a, b = (_matrix(file, content, key) for key in ("lora_A", "lora_B"))
    if a.shape[1] != b.shape[0] or a.shape[0] != b.shape[1] or content["r"] != b.shape[0]:
        raise UserError(
            f"{file}: lora_A {list(a.shape)}, lora_B {list(b.shape)} and r = {content['r']} do not fit together."
        )
    if a.shape[0] != width:
        raise UserError(f"{file} is {a.shape[0]} wide, but this model's blocks are {width} wide.")
    return a, b


def _matrix(file: epath.Path, content: dict[str, Any], key: str) -> np.ndarray:
    tensor = content[key]
    if not (hasattr(tensor, "is_floating_point") and tensor.is_floating_point() and tensor.ndim == 2):
        raise UserError(f"{file}: {key} is no matrix of floating-point numbers.")
    return tensor.detach().float().numpy()


def _load(torch: Any, file: epath.Path) -> dict[str, Any]:
    """The dictionary in a file, checked for what it must hold and for tensors that we would drop."""
    try:
        content = torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler and zip reader do
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{file} is no file that torch can load safely: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no dictionary.")
    missing = [key for key in _NEEDED if key not in content]
    if missing:
        raise UserError(f"{file} lacks {', '.join(missing)}.")
    if content["intervention_components"] != MLP:
        raise UserError(
            f"{file}: intervention_components is {content['intervention_components']!r}; only {MLP!r} can be read."
        )
    extra = [key for key, value in content.items() if key not in _NEEDED and isinstance(value, torch.Tensor)]
    if extra:
        raise UserError(f"{file} holds the tensor {extra[0]}, which an adapter here has no place for.")
    return content


def _file(layer: int) -> str:
    return f"layer_{layer}.pt"


def _layer(file: epath.Path) -> int:
    name = _NAME.fullmatch(file.name)
    if name is None:
        raise UserError(f"{file}: the name must be layer_<L>.pt, which says the layer.")
    return int(name[1])


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError("the release's layer_<L>.pt files need PyTorch; install torch (pip install torch).") from None
    return torch
