"""Hugging Face directories in and out: `config.json` and safetensors, one file or shards with an index.

Tensors go to the device one at a time, into their place in the stack of layers, so the host never holds more than a
tensor or two.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from memlaw_jax.errors import UserError
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.decoder import Decoder, Params

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
# Old checkpoints store this; it follows from the config.
_DERIVED = re.compile(r"rotary_emb\.inv_freq$")
_FLOATS = {"BF16": jnp.bfloat16, "F16": jnp.float16, "F32": jnp.float32}


def read_config(directory: epath.Path) -> DecoderConfig:
    """The decoder that a directory's `config.json` describes."""
    path = directory / "config.json"
    if not directory.is_dir():
        raise UserError(f"there is no model directory {directory}; give a directory with config.json and safetensors.")
    if not path.exists():
        raise UserError(f"{directory} holds no config.json, so it is no Hugging Face model directory.")
    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); fetch it again.") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no JSON object; fetch it again.")
    try:
        return DecoderConfig.from_hf(raw)
    except UserError:
        raise
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise UserError(f"{path} holds an impossible value ({error}); fetch it again.") from None


def read_params(directory: epath.Path, config: DecoderConfig, dtype: Any) -> Params:
    """All frozen weights of a directory, as `dtype`, layers stacked.

    Raises:
      UserError: a missing, extra, mis-shaped or non-float tensor, or a corrupt file; it is named.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(_abstract_params(config)).items()}
    leaves: dict[tuple[str, ...], jax.Array] = {}
    with ExitStack() as stack:
        where = _open_tensors(directory, stack)
        for name, (path, layer) in _wanted(config, shapes, where).items():
            shape = shapes[path] if layer is None else shapes[path][1:]
            tensor = _read(where[name], name, path, shape)
            if layer is None:
                leaves[path] = jnp.asarray(tensor, dtype)
            else:
                if path not in leaves:
                    leaves[path] = jnp.zeros(shapes[path], dtype)
                leaves[path] = _set_layer(leaves[path], jnp.asarray(tensor), layer)
        if config.tie_word_embeddings and "lm_head.weight" in where:
            _check_tie(where)
    return unflatten_dict(leaves)


def write_checkpoint(directory: epath.Path, config: DecoderConfig, params: Params) -> None:
    """`config.json` and `model.safetensors` that transformers reads, in the parameters' own dtype."""
    directory.mkdir(parents=True, exist_ok=True)
    shapes = {path: leaf.shape for path, leaf in flatten_dict(params).items()}
    leaves = flatten_dict(params)
    tensors = {}
    for name, (path, layer) in _names(shapes).items():
        leaf = leaves[path] if layer is None else leaves[path][layer]
        tensors[name] = np.ascontiguousarray(np.asarray(leaf.T if path[-1] == "kernel" else leaf))
    raw = config.to_hf() | {"dtype": str(jax.tree.leaves(params)[0].dtype)}
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})


def fingerprint(directory: epath.Path) -> str:
    """Hash that tells two checkpoints apart without reading all of a large one: config, sizes, ends of each file."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().length
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


@functools.partial(jax.jit, donate_argnums=0)
def _set_layer(stack: jax.Array, tensor: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, tensor.astype(stack.dtype), layer, 0)


def _abstract_params(config: DecoderConfig) -> Params:
    return jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def _names(shapes: dict[tuple[str, ...], tuple[int, ...]]) -> dict[str, tuple[tuple[str, ...], int | None]]:
    """`{Hugging Face tensor name: (path in our tree, layer or None)}`."""
    names: dict[str, tuple[tuple[str, ...], int | None]] = {}
    for path, shape in shapes.items():
        module = ".".join(part for part in path[:-1] if part != "layers")
        leaf = "bias" if path[-1] == "bias" else "weight"
        if path[0] == "layers":
            names |= {f"model.layers.{i}.{module}.{leaf}": (path, i) for i in range(shape[0])}
        else:
            names["lm_head.weight" if module == "lm_head" else f"model.{module}.{leaf}"] = (path, None)
    return names


def _wanted(config: DecoderConfig, shapes: dict, where: dict) -> dict[str, tuple[tuple[str, ...], int | None]]:
    """The tensors to read, in the order of layers, once it is sure that none is missing or left over."""
    names = _names(shapes)
    missing = sorted(set(names) - set(where))
    if missing:
        raise UserError(f"the checkpoint lacks {_some(missing)}, which its config.json calls for.")
    allowed = set(names) | ({"lm_head.weight"} if config.tie_word_embeddings else set())
    extra = sorted(name for name in set(where) - allowed if not _DERIVED.search(name))
    if extra:
        raise UserError(f"the checkpoint holds {_some(extra)}, which this {config.family} decoder has no place for.")
    return names


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensors"


def _open_tensors(directory: epath.Path, stack: ExitStack) -> dict[str, Any]:
    """`{tensor name: open file}` of a directory; the files close with `stack`."""
    where: dict[str, Any] = {}
    for path, wanted in _shards(directory):
        try:
            file = stack.enter_context(safe_open(str(path), framework="numpy"))
        except FileNotFoundError:
            raise UserError(f"{directory} names the weight file {path.name} but does not hold it; fetch it.") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"the weight file {path} is corrupt or cut short ({error}); fetch it again.") from None
        held = set(file.keys())
        if wanted - held:
            raise UserError(f"{path} lacks {_some(sorted(wanted - held))}, which {INDEX} says it holds.")
        where |= dict.fromkeys(held, file)
    return where


def _shards(directory: epath.Path) -> Iterator[tuple[epath.Path, set[str]]]:
    """Weight files, each with the tensors that the index promises in it."""
    index = directory / INDEX
    if index.exists():
        try:
            weight_map = dict(json.loads(index.read_text())["weight_map"])
            if not weight_map:
                raise ValueError("empty")
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{index} is not a valid safetensors index; fetch it again.") from None
        for name in sorted(set(weight_map.values())):
            yield directory / name, {tensor for tensor, file in weight_map.items() if file == name}
    elif (directory / SINGLE).exists():
        yield directory / SINGLE, set()
    else:
        raise UserError(f"{directory} holds neither {SINGLE} nor {INDEX}; only safetensors weights can be read.")


def _read(file: Any, name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """One tensor in our layout (kernels transposed)."""
    stored = file.get_slice(name)
    kind, found = stored.get_dtype(), tuple(stored.get_shape())
    if kind not in _FLOATS:
        raise UserError(f"tensor {name} is stored as {kind}; only {', '.join(_FLOATS)} weights can be read.")
    expected = shape[::-1] if path[-1] == "kernel" else shape
    if found != expected:
        raise UserError(f"tensor {name} has the shape {found}, its config.json calls for {expected}.")
    tensor = file.get_tensor(name)
    return tensor.T if path[-1] == "kernel" else tensor


def _check_tie(where: dict[str, Any]) -> None:
    head, table = (where[name].get_tensor(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    if head.shape != table.shape or not np.array_equal(head, table):
        raise UserError("config.json ties the head to the embedding, but lm_head.weight differs from it.")
