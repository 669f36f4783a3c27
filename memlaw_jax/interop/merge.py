"""An adapter merged into its base: a Hugging Face directory with W' = W + scale·A·B, written tensor by tensor."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError

from memlaw_jax.errors import UserError
from memlaw_jax.interop.files import ADAPTER_CONFIG, MODEL_CONFIG, writing
from memlaw_jax.interop.modules import split
from memlaw_jax.models import Adapter, Base
from memlaw_jax.models.checkpoint import SHARD_BYTES, write_checkpoint
from memlaw_jax.models.lora import MLP

# Says what was merged, and that the folder is ours to write again.
MARKER = "memlaw_merged.json"
# What belongs to a model beside its weights and config.json.
_COMPANIONS = (
    "generation_config.json", "chat_template*", "tokenizer*", "tekken.json", "vocab.*", "merges.txt",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip

Listener = Callable[[int, int], None]


def write_merged(
    base: Base,
    adapter: Adapter,
    directory: str | epath.PathLike,
    *,
    shard_bytes: int = SHARD_BYTES,
    listen: Listener | None = None,
) -> epath.Path:
    """Writes a model that transformers loads, with the adapter in its weights; returns its directory.

    Each product is float32 and each sum is rounded once, to the base's dtype: in bfloat16 what an adapter adds below
    2⁻⁹ of a weight is lost. Weights come first and config.json last, so a folder cut short loads nowhere.

    Args:
      shard_bytes: the largest weight file; one such is in the host's memory at a time.
      listen: is told tensors written and tensors in all.

    Raises:
      UserError: an `mlp` bypass, an adapter of another model, weights that are not finite, a folder of something else.
    """
    path = epath.Path(directory)
    check_merge(adapter, path, base.directory)
    adapter.check(base.config, base.fingerprint)
    pairs = {key: pair for key, pair in split(adapter).items() if pair[0].shape[1]}
    leaves = flatten_dict(base.params).items()
    done, in_all = itertools.count(1), sum(leaf.shape[0] if where[0] == "layers" else 1 for where, leaf in leaves)

    def merged(where: tuple[str, ...], layer: int | None, tensor: np.ndarray) -> np.ndarray:
        if listen is not None:
            listen(next(done), in_all)
        pair = pairs.get((layer, where[-2])) if layer is not None and where[-1] == "kernel" else None
        if pair is None:
            return tensor
        total = tensor.astype(np.float32) + pair[0] @ (pair[1] * np.float32(adapter.lora.scale))
        with np.errstate(over="ignore"):
            total = total.astype(tensor.dtype)
        if not np.isfinite(total.astype(np.float32)).all():
            raise UserError(f"{where[-2]} of layer {layer} with the adapter is not finite in {tensor.dtype}.")
        return total

    with writing(path):
        (path / MODEL_CONFIG).unlink(missing_ok=True)
        (path / MARKER).write_text(json.dumps(_story(base, adapter), indent=2) + "\n")
        _copy_companions(base, path)
        try:
            write_checkpoint(path, base.config, base.params, change=merged, raw=_config(base), shard_bytes=shard_bytes)
        except SafetensorError as error:  # also what it makes of a full disk
            raise OSError(str(error)) from error
    return path


def check_merge(adapter: Adapter, directory: epath.Path, source: epath.Path) -> None:
    """Refuses what can be refused before any weight is read.

    Raises:
      UserError: an `mlp` bypass; a folder that is the base's own, another model's or a PEFT adapter's.
    """
    if MLP in adapter.lora.targets:
        raise UserError(
            "the mlp bypass runs around a non-linear block, so no weight can take it in; take the adapter to torch "
            "with memlaw_jax.interop.torch_hook (`memlaw export --format torch`) or train linear targets."
        )
    if os.path.realpath(directory) == os.path.realpath(source):
        raise UserError(f"{directory} is the base model's own folder; choose another.")
    if (directory / MODEL_CONFIG).exists() and not (directory / MARKER).exists():
        raise UserError(f"{directory} holds another model; choose another folder.")
    if (directory / ADAPTER_CONFIG).exists():  # transformers would put it on top of the merged weights
        raise UserError(f"{directory} holds a PEFT adapter ({ADAPTER_CONFIG}); choose another folder.")


def merged_files(directory: epath.Path) -> list[epath.Path]:
    """The files that make up a merged model's folder, whatever else lies there."""
    patterns = (MODEL_CONFIG, MARKER, "model.safetensors*", "model-*-of-*.safetensors", *_COMPANIONS)
    return sorted({file for pattern in patterns for file in directory.glob(pattern) if file.is_file()})


def _config(base: Base) -> dict[str, Any]:
    """The source's own config.json (token ids and all) with the dtype of the weights."""
    raw: dict[str, Any] = json.loads((base.directory / MODEL_CONFIG).read_text())
    keys = [key for key in ("dtype", "torch_dtype") if key in raw] or ["dtype"]
    return raw | dict.fromkeys(keys, base.dtype)


def _story(base: Base, adapter: Adapter) -> dict[str, Any]:
    return {
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "dtype": base.dtype,
        "lora": dataclasses.asdict(adapter.lora),
        "layers": list(adapter.layers),
        "scale": adapter.lora.scale,
    }


def _copy_companions(base: Base, directory: epath.Path) -> None:
    files = {file for pattern in _COMPANIONS for file in base.directory.glob(pattern) if file.is_file()}
    for file in files:
        (directory / file.name).write_bytes(file.read_bytes())
    if not any(file.name.startswith(("tokenizer", "tekken", "vocab")) for file in files):
        base.tokenizer.save_pretrained(str(directory))
