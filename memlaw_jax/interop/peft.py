"""PEFT adapters out and in: `adapter_model.safetensors` and `adapter_config.json`, without PEFT and without torch.

PEFT computes W·x + scale·B·A·x with A [r, d_in] and B [d_out, r]: ours, transposed (Hu et al. 2021, equation 3).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from memlaw_jax.errors import UserError
from memlaw_jax.interop.files import ADAPTER_CONFIG, refuse_model, writing
from memlaw_jax.interop.modules import Pair, Pairs, join, split, targets_of, whole
from memlaw_jax.interop.peft_config import LINEAR, PeftConfig, module_name, read_peft_config
from memlaw_jax.models import Adapter, Base, DecoderConfig, LoraConfig
from memlaw_jax.models.adapter import META
from memlaw_jax.models.base import EMBEDDED
from memlaw_jax.models.lora import MLP, PEFT_ALPHA

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
_MODULE = re.compile(r"model\.layers\.(?P<layer>0|[1-9]\d*)\.(?:self_attn|mlp)\.(?P<target>\w+)")
_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def to_peft(adapter: Adapter, base: Base | None, directory: str | epath.PathLike) -> epath.Path:
    """Writes an adapter of linear layers as PEFT does, float32; returns its directory.

    A module padded with zeros is written at its own rank, one that is all zeros is left out.

    Args:
      base: the model it belongs to, to check that it fits; None writes it unchecked.

    Raises:
      UserError: an `mlp` bypass, which PEFT has no form for; an adapter that does not fit; a folder with a model in it.
    """
    path = epath.Path(directory)
    if MLP in adapter.lora.targets:
        raise UserError(
            "PEFT has no form for the mlp bypass of a whole block; take the adapter to torch with "
            "memlaw_jax.interop.torch_hook (`memlaw export --format torch`) or train linear targets."
        )
    if base is not None:
        adapter.check(base.config, base.fingerprint)
    pairs = {key: pair for key, pair in split(adapter).items() if pair[0].shape[1]} or whole(adapter)
    tensors = {}
    for (layer, target), pair in pairs.items():
        for part, matrix in zip("AB", pair, strict=True):
            name = f"base_model.model.{module_name(layer, target)}.lora_{part}.weight"
            tensors[name] = np.ascontiguousarray(matrix.T)
    config = _config(adapter, {key: a.shape[1] for key, (a, _) in pairs.items()})
    refuse_model(path)
    with writing(path):
        (path / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        (path / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return path


def from_peft(directory: str | epath.PathLike, base: Base) -> Adapter:
    """Reads a PEFT LoRA adapter of this base.

    One rank and scale everywhere are kept as they are. Otherwise ranks are padded with zeros to the largest and scales
    go into B (rounded once to float32), so that the adapter's own scale is 1.

    Raises:
      UserError: anything that our adapters cannot represent, a missing, extra or mis-shaped tensor, a corrupt file.
    """
    path = epath.Path(directory)
    if (path / META).exists() and not (path / ADAPTER_CONFIG).exists():
        raise UserError(f"{path} is an adapter of memlaw_jax's own; read it with load_adapter.")
    config = read_peft_config(path)
    tensors = _read_tensors(path)
    stored = {_place(path, name, base.config): tensor for name, tensor in sorted(tensors.items())}
    found = {(layer, target) for layer, target, _ in stored}
    if not found:
        raise UserError(f"{path / WEIGHTS} holds no tensors.")
    _compare(path, config.modules(base.config), found)
    pairs: Pairs = {key: _pair(path, stored, key, config, base.config) for key in found}
    ranks = {key: config.rank_of(module_name(*key)) for key in pairs}
    scales = {key: config.scale_of(module_name(*key)) for key in pairs}
    rank, scale = max(ranks.values()), next(iter(scales.values()))
    alike = all(math.isclose(other, scale, rel_tol=1e-12) for other in scales.values())
    settings: dict[str, Any] = {"init": "peft", "alpha": float(rank)}
    if alike and scale > 0 and set(ranks.values()) == {rank}:
        settings = _settings(rank, scale, config.rslora, config.alpha)
    else:
        pairs = {key: (a, (b * np.float64(scales[key])).astype(np.float32)) for key, (a, b) in pairs.items()}
    layers = tuple(sorted({layer for layer, _ in pairs}))
    every = layers == tuple(range(base.config.num_layers))
    lora = LoraConfig(rank=rank, targets=targets_of(pairs), layers=None if every else layers, **settings)
    return join(pairs, lora, base)


def _settings(rank: int, scale: float, rslora: bool, alpha: float) -> dict[str, Any]:
    """`init` and `alpha` for a scale that holds everywhere; the file's own alpha where it is that of every module."""
    width = math.sqrt(rank) if rslora else rank
    return {"init": "rslora" if rslora else "peft", "alpha": alpha if alpha / width == scale else scale * width}


def _config(adapter: Adapter, ranks: dict[tuple[int, str], int]) -> dict[str, Any]:
    """`adapter_config.json` of modules with these ranks; patterns only where ranks differ."""
    lora, rank = adapter.lora, max(ranks.values())
    rslora = lora.init == "rslora"
    layers, targets = sorted({layer for layer, _ in ranks}), targets_of(ranks)
    complete = len(ranks) == len(layers) * len(targets)
    every = lora.layers is None and layers == list(adapter.layers)
    patterns = _pattern(ranks, rank)
    return {
        "alpha_pattern": {name: _alpha(lora, other) for name, other in patterns.items()},
        "auto_mapping": None,
        "base_model_name_or_path": None if adapter.model == EMBEDDED else adapter.model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": "layers" if complete and not every else None,
        "layers_to_transform": layers if complete and not every else None,
        "lora_alpha": _alpha(lora, rank),
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": patterns,
        "revision": None,
        "target_modules": list(targets) if complete else [module_name(*key) for key in sorted(ranks)],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": rslora,
    }


def _pattern(ranks: dict[tuple[int, str], int], rank: int) -> dict[str, int]:
    """Names of the modules whose rank is another; one entry for a target that has it in every layer."""
    pattern = {}
    for target in targets_of(ranks):
        here = {layer: own for (layer, name), own in ranks.items() if name == target}
        if set(here.values()) == {rank}:
            continue
        if len(set(here.values())) == 1:
            pattern[target] = next(iter(here.values()))
        else:  # without `model.`: PEFT before 0.14 wants something in front of a key
            names = {layer: module_name(layer, target).removeprefix("model.") for layer in here}
            pattern |= {names[layer]: own for layer, own in sorted(here.items()) if own != rank}
    return pattern


def _alpha(lora: LoraConfig, rank: int) -> int | float:
    """The alpha that gives a module of another rank the same scale."""
    alpha = lora.alpha if lora.alpha is not None else lora.rank if lora.init == "paper" else PEFT_ALPHA
    ratio = math.sqrt(rank / lora.rank) if lora.init == "rslora" else rank / lora.rank
    value = alpha * ratio
    return int(value) if value == int(value) else value


def _read_tensors(path: epath.Path) -> dict[str, np.ndarray]:
    """Every tensor of the file in float32, which holds each bfloat16 and float16 number exactly."""
    try:
        entries = deserialize((path / WEIGHTS).read_bytes())
    except FileNotFoundError:
        held = f"holds {PICKLE}, a pickle, but no" if (path / PICKLE).exists() else "lacks"
        raise UserError(f"{path} {held} {WEIGHTS}; save the adapter with safe_serialization=True.") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path / WEIGHTS} is corrupt or cut short ({error}).") from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _TYPES:
            raise UserError(f"{path / WEIGHTS}: {name} is stored as {entry['dtype']}; known are {', '.join(_TYPES)}.")
        raw = np.frombuffer(entry["data"], _TYPES[entry["dtype"]])
        tensors[name] = raw.reshape(entry["shape"]).astype(np.float32)
    return tensors


def _place(path: epath.Path, name: str, config: DecoderConfig) -> tuple[int, str, str]:
    """`(layer, target, "A" or "B")` of a tensor."""
    tensor = _TENSOR.fullmatch(name)
    module = tensor and _MODULE.fullmatch(tensor["module"])
    if not tensor or not module or module["target"] not in LINEAR:
        raise UserError(f"{path / WEIGHTS} holds {name}, which is no A or B of a linear layer of this model's blocks.")
    layer, target = int(module["layer"]), module["target"]
    if tensor["module"] != module_name(layer, target):
        raise UserError(f"{path / WEIGHTS} holds {name}, but {target} is elsewhere in a block.")
    if layer >= config.num_layers:
        raise UserError(
            f"{path / WEIGHTS} holds {name}, but this model's layers are 0 to {config.num_layers - 1}; "
            "the adapter belongs to another model."
        )
    return layer, target, tensor["part"]


def _pair(
    path: epath.Path,
    stored: dict[tuple[int, str, str], np.ndarray],
    key: tuple[int, str],
    config: PeftConfig,
    decoder: DecoderConfig,
) -> Pair:
    """A [d_in, r] and B [r, d_out] of a module, once their shapes are what its configuration and the model call for."""
    name, (d_in, d_out) = module_name(*key), decoder.linear_shape(key[1])
    rank = config.rank_of(name)
    for part, shape in (("A", (rank, d_in)), ("B", (d_out, rank))):
        if (*key, part) not in stored:
            raise UserError(f"{path / WEIGHTS} holds only one of lora_A and lora_B for {name}.")
        if stored[*key, part].shape != shape:
            raise UserError(
                f"{path / WEIGHTS}: lora_{part} of {name} has the shape {stored[*key, part].shape}, "
                f"but its configuration and this model call for {shape}."
            )
    return stored[*key, "A"].T, stored[*key, "B"].T


def _compare(path: epath.Path, named: set[tuple[int, str]] | None, found: set[tuple[int, str]]) -> None:
    """What the configuration names against what the file holds."""
    if named is None:
        return
    if named - found:
        raise UserError(
            f"{path / WEIGHTS} lacks {module_name(*min(named - found))}, which {ADAPTER_CONFIG} says is adapted."
        )
    if found - named:
        raise UserError(
            f"{path / WEIGHTS} holds {module_name(*min(found - named))}, which {ADAPTER_CONFIG} does not name."
        )
