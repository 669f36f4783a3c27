"""Adapters as if trained, PEFT files made by hand, and what a model says with them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from models import tiny
from models.forward import random_adapter
from safetensors.numpy import load_file, save_file

from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.models.lora import PATHS

LINEAR = tuple(target for target in PATHS if target != "mlp")
# One shape for tests about other things, so that it is compiled once a model.
SOME: dict[str, Any] = {"targets": LINEAR, "rank": 3, "layers": (0, 2)}
TOKENS = tiny.right_padded()[0][:1]  # the row without padding
# A float32 sum in another order differs by about 1e-6 at unit scale, and a few layers multiply that (tests/models).
TOLERANCE = 2e-4
# Without effect the logits would be the base's; adapters here move them by several tenths.
MOVED = 0.1


def make(base: Base, seed: int = 1, **settings: Any) -> Adapter:
    """An adapter with neither A nor B zero."""
    lora = LoraConfig(**settings)
    return Adapter(
        lora=lora,
        layers=lora.adapted_layers(base.config),
        weights=random_adapter(base.config, lora, seed),
        model=base.name,
        model_fingerprint=base.fingerprint,
    )


def logits(base: Base, adapter: Adapter | None = None) -> np.ndarray:
    """`[1, T, V]`."""
    return np.asarray(base.logits(TOKENS, adapter))


def node(adapter: Adapter, target: str) -> dict[str, np.ndarray]:
    """A and B of one target over the adapted layers; NumPy arrays that may be changed."""
    module = adapter.weights
    for name in PATHS[target]:
        module = module[name]
    return module


def delta(adapter: Adapter) -> dict[tuple[int, str], np.ndarray]:
    """`{(layer, target): scale·A·B}`, float64; two adapters with the same are the same to any model."""
    return {
        (layer, target): adapter.lora.scale
        * (np.asarray(node(adapter, target)["a"][index], float) @ np.asarray(node(adapter, target)["b"][index], float))
        for target in adapter.lora.targets
        for index, layer in enumerate(adapter.layers)
    }


def assert_same_effect(found: Adapter, want: Adapter) -> None:
    """Equal scale·A·B in every module, to float32's rounding; a module that only one of them has must be zero there."""
    ours, theirs = delta(found), delta(want)
    for key in set(ours) | set(theirs):
        one, other = (side.get(key, 0.0) for side in (ours, theirs))
        np.testing.assert_allclose(one, np.broadcast_to(other, np.shape(one)), rtol=0, atol=1e-6, err_msg=str(key))


def peft_name(layer: int, target: str) -> str:
    return ".".join(("model.layers", str(layer), *PATHS[target]))


def write_peft(
    directory: Path,
    base: Base,
    modules: Iterable[tuple[int, str]],
    *,
    ranks: dict[tuple[int, str], int] | None = None,
    dtype: Any = np.float32,
    **config: Any,
) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
    """A PEFT adapter of rank 3 (or `ranks`) and alpha 6 in these modules; returns A [d_in, r] and B [r, d_out]."""
    rng, pairs, tensors = np.random.default_rng(5), {}, {}
    for layer, target in modules:
        d_in, d_out = base.config.linear_shape(target)
        rank = (ranks or {}).get((layer, target), 3)
        a = (rng.standard_normal((rank, d_in)) / np.sqrt(d_in)).astype(dtype)
        b = (rng.standard_normal((d_out, rank)) / np.sqrt(rank)).astype(dtype)
        pairs[layer, target] = a.T.astype(np.float32), b.T.astype(np.float32)
        tensors |= {
            f"base_model.model.{peft_name(layer, target)}.lora_{part}.weight": matrix
            for part, matrix in (("A", a), ("B", b))
        }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    content = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": sorted({t for _, t in pairs}), **config}
    (directory / "adapter_config.json").write_text(json.dumps(content))
    return pairs


def read_peft(directory: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors of a PEFT adapter."""
    config = json.loads((directory / "adapter_config.json").read_text())
    return config, load_file(directory / "adapter_model.safetensors")


def torch_model(directory: Path | str, dtype: str = "float32") -> Any:
    """A checkpoint in transformers, with eager attention."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()


def torch_logits(model: Any) -> np.ndarray:
    """`[1, T, V]` in float32."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor(TOKENS).long()).logits.float().numpy()
