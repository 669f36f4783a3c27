"""Hugging Face directories in and out: `config.json` and safetensors, one file or shards with an index.

Tensors go to the device one at a time, into their place in the stack of layers, so the host never holds more than a
tensor or two.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from memlaw_jax.errors import UserError
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.decoder import Decoder, Params
from memlaw_jax.sharding import weight_sharding

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_SHARDS = "model-*-of-*.safetensors"
# Old checkpoints store this; it follows from the config.
_DERIVED = re.compile(r"rotary_emb\.inv_freq$")
SHARD_BYTES = 4 << 30  # of one weight file that is written
READ_BYTES = 32 << 20  # of one reading, which with one tensor's copy bounds the host's memory
Change = Callable[[tuple[str, ...], int | None, np.ndarray], np.ndarray]
_FLOATS = {"BF16": jnp.bfloat16, "F16": jnp.float16, "F32": jnp.float32}


def read_config(directory: epath.Path) -> DecoderConfig:
    """The decoder that a directory's `config.json` describes."""
    path = directory / "config.json"
    if not directory.is_dir():
        raise UserError(f"there is no model directory {directory}; give a directory with config.json and safetensors.")
    if (directory / "adapter_config.json").exists():  # transformers would put it on top of the weights
        raise UserError(
            f"{directory} holds a PEFT adapter (adapter_config.json); give the base model's own folder, and read the "
            "adapter with from_peft."
        )
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


def read_params(directory: epath.Path, config: DecoderConfig, dtype: Any, mesh: Mesh | None = None) -> Params:
    """All frozen weights of a directory, as `dtype`, layers stacked, spread over `mesh` where one is given.

    Tensors go to their devices one at a time, and a device that holds a part of one is sent that part only.

    Raises:
      UserError: a missing, extra, mis-shaped or non-float tensor, a corrupt file, a mesh that does not divide a weight;
        it is named.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract_params(config)).items()}
    places = {path: _place(mesh, path, shape) for path, shape in shapes.items()}
    where = _find_tensors(directory)
    wanted = _wanted(config, shapes, where)
    for name, (path, layer) in wanted.items():
        _check_stored(where[name], name, path, shapes[path] if layer is None else shapes[path][1:])
    if config.tie_word_embeddings and "lm_head.weight" in where:
        _check_tie(where, shapes["embed_tokens", "embedding"])
    leaves: dict[tuple[str, ...], jax.Array] = {}
    for name, (path, layer) in wanted.items():
        if layer is None:
            whole = _read(where[name], name, path, shapes[path], places[path])
            leaves[path] = whole if whole.dtype == dtype else _cast(places[path], dtype)(whole)
            continue
        if path not in leaves:
            leaves[path] = _zeros(shapes[path], dtype, places[path])
        tensor = _read(where[name], name, path, shapes[path][1:], _inner(places[path]))
        leaves[path] = _set_layer(places[path])(leaves[path], tensor, layer)
    return unflatten_dict(leaves)


def write_checkpoint(
    directory: epath.Path,
    config: DecoderConfig,
    params: Params,
    *,
    change: Change | None = None,
    raw: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """A directory that transformers reads, in the parameters' own dtype: one file, or shards with an index.

    Weights that were there are removed first and `config.json` comes last, so a directory cut short loads nowhere. One
    shard at a time is in the host's memory.

    Args:
      change: `(path in our tree, layer or None, tensor in our layout) -> tensor` to write instead, alike in shape and
        dtype.
      raw: the content of `config.json`; None describes `config`.
      shard_bytes: the largest weight file, unless a single tensor is larger.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for old in (directory / "config.json", directory / INDEX, directory / SINGLE, *directory.glob(_SHARDS)):
        old.unlink(missing_ok=True)
    leaves = flatten_dict(params)
    names = _names({path: leaf.shape for path, leaf in leaves.items()})

    def stored(path: tuple[str, ...], layer: int | None) -> np.ndarray:
        tensor = np.asarray(leaves[path] if layer is None else leaves[path][layer])
        tensor = tensor if change is None else change(path, layer, tensor)
        return np.ascontiguousarray(tensor.T if path[-1] == "kernel" else tensor)

    sizes = {
        name: leaves[path].nbytes // (1 if layer is None else len(leaves[path]))
        for name, (path, layer) in names.items()
    }
    shards = _plan_shards(sizes, shard_bytes)
    files = [_SHARDS.replace("*", "{:05}").format(i, len(shards)) for i in range(1, len(shards) + 1)]
    files = files if len(shards) > 1 else [SINGLE]
    for file, shard in zip(files, shards, strict=True):
        save_file({name: stored(*names[name]) for name in shard}, directory / file, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    if raw is None:
        raw = config.to_hf() | {"dtype": str(jax.tree.leaves(params)[0].dtype)}
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n")


def _plan_shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in order, in groups of at most `limit` bytes."""
    shards: list[list[str]] = []
    used = limit
    for name, size in sizes.items():
        if not shards or used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


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


def _place(mesh: Mesh | None, path: tuple[str, ...], shape: tuple[int, ...]) -> Sharding:
    return SingleDeviceSharding(jax.local_devices()[0]) if mesh is None else weight_sharding(mesh, path, shape)


def _inner(stack: Sharding) -> Sharding:
    """The sharding of one layer of a stack."""
    return NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:])) if isinstance(stack, NamedSharding) else stack


def _zeros(shape: tuple[int, ...], dtype: Any, place: Sharding) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=place)()


@functools.cache
def _cast(place: Sharding, dtype: Any) -> Any:
    return jax.jit(lambda tensor: tensor.astype(dtype), out_shardings=place)


@functools.cache
def _set_layer(place: Sharding) -> Any:
    def put(stack: jax.Array, tensor: jax.Array, layer: int) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(stack, tensor.astype(stack.dtype), layer, 0)

    return jax.jit(put, donate_argnums=0, out_shardings=place)


def abstract_params(config: DecoderConfig) -> Params:
    """The shapes of all frozen weights, in float32."""
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


def _find_tensors(directory: epath.Path) -> dict[str, epath.Path]:
    """`{tensor name: its file}` of a directory."""
    where: dict[str, epath.Path] = {}
    for path, wanted in _shards(directory):
        try:
            with safe_open(str(path), framework="numpy") as file:
                held = set(file.keys())
        except FileNotFoundError:
            raise UserError(f"{directory} names the weight file {path.name} but does not hold it; fetch it.") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"the weight file {path} is corrupt or cut short ({error}); fetch it again.") from None
        if wanted - held:
            raise UserError(f"{path} lacks {_some(sorted(wanted - held))}, which {INDEX} says it holds.")
        if twice := sorted(held & set(where)):
            raise UserError(f"{path.name} and {where[twice[0]].name} both hold {_some(twice)}; fetch the model again.")
        where |= dict.fromkeys(held, path)
    return where


def _shards(directory: epath.Path) -> Iterator[tuple[epath.Path, set[str]]]:
    """Weight files, each with the tensors that the index promises in it."""
    index = directory / INDEX
    if index.exists():
        try:
            weight_map = dict(json.loads(index.read_text())["weight_map"])
            if not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
                raise ValueError("empty")
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{index} is not a valid safetensors index; fetch it again.") from None
        for name in sorted(set(weight_map.values())):
            yield directory / name, {tensor for tensor, file in weight_map.items() if file == name}
    elif (directory / SINGLE).exists():
        yield directory / SINGLE, set()
    else:
        raise UserError(f"{directory} holds neither {SINGLE} nor {INDEX}; only safetensors weights can be read.")


def _check_stored(file: epath.Path, name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Refuses a tensor of a type or shape that does not fit, before anything is read."""
    with safe_open(str(file), framework="numpy") as tensors:
        stored = tensors.get_slice(name)
        kind, found = stored.get_dtype(), tuple(stored.get_shape())
    if kind not in _FLOATS:
        raise UserError(f"tensor {name} is stored as {kind}; only {', '.join(_FLOATS)} weights can be read.")
    expected = shape[::-1] if path[-1] == "kernel" else shape
    if found != expected:
        raise UserError(f"tensor {name} has the shape {found}, its config.json calls for {expected}.")


def _read(file: epath.Path, name: str, path: tuple[str, ...], shape: tuple[int, ...], place: Sharding) -> jax.Array:
    """One tensor in our layout (kernels transposed) on its devices, as stored."""
    transposed = path[-1] == "kernel"

    @functools.cache  # devices that hold the same part share one reading
    def part(bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        return _blocks(file, name, bounds[::-1] if transposed else bounds)

    def on_device(index: Any) -> np.ndarray:
        found = part(tuple(piece.indices(size)[:2] for piece, size in zip(index, shape, strict=True)))
        return found.T if transposed else found

    return jax.make_array_from_callback(shape, place, on_device).block_until_ready()


def _blocks(file: epath.Path, name: str, bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
    """A part of a stored tensor, read in blocks of rows.

    The file is opened anew for each: pages of a mapped file count as this process's memory for as long as it is open.
    """
    (first, last), *rest = bounds
    columns = tuple(slice(*pair) for pair in rest)
    with safe_open(str(file), framework="numpy") as tensors:
        kind = _FLOATS[tensors.get_slice(name).get_dtype()]
    out = np.empty([stop - start for start, stop in bounds], kind)
    step = max(1, READ_BYTES // max(1, out[:1].nbytes))
    for start in range(first, last, step):
        rows = slice(start, min(start + step, last))
        with safe_open(str(file), framework="numpy") as tensors:
            out[rows.start - first : rows.stop - first] = tensors.get_slice(name)[(rows, *columns)]
    return out


def _check_tie(where: dict[str, epath.Path], shape: tuple[int, ...]) -> None:
    """Refuses a stored head that is not the embedding, which it is compared with in blocks of rows."""
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    _check_stored(where[head], head, ("embed_tokens", "embedding"), shape)
    step = max(1, READ_BYTES // (4 * shape[1]))
    for start in range(0, shape[0], step):
        bounds = ((start, min(start + step, shape[0])), (0, shape[1]))
        if not np.array_equal(_blocks(where[head], head, bounds), _blocks(where[table], table, bounds)):
            raise UserError("config.json ties the head to the embedding, but lm_head.weight differs from it.")
