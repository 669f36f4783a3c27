"""A trained adapter as a value: its configuration and weights, saved as safetensors with a small JSON beside it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from memlaw_jax.errors import UserError
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.lora import PATHS, AdapterWeights, LoraConfig, pad_rank
from memlaw_jax.paths import NOTHING_THERE, as_path, make_folder, reading, reason, write_whole

WEIGHTS, META = "adapter.safetensors", "memlaw_adapter.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Weights at their true rank, with what they belong to. `layers` are those of the base it was trained on."""

    lora: LoraConfig
    layers: tuple[int, ...]
    weights: AdapterWeights = field(repr=False)
    model: str
    model_fingerprint: str

    def check(self, config: DecoderConfig, fingerprint: str | None = None) -> None:
        """Refuses a decoder that this adapter does not fit, and weights that are not what `lora` says.

        Warns where `fingerprint` is that of another checkpoint than the one it was trained on.
        """
        if fingerprint not in (None, self.model_fingerprint):
            warnings.warn(f"the adapter was trained on other weights, those of {self.model}", stacklevel=3)
        self.lora.check(config)
        if self.lora.adapted_layers(config) != self.layers:
            raise UserError(
                f"the adapter belongs to layers {list(self.layers)} of {self.model}; this model differs there."
            )
        flat = flatten_dict(self.weights)
        differing = {(*PATHS[target], part) for target in self.lora.targets for part in ("a", "b")} ^ set(flat)
        if differing:
            raise UserError(f"the adapter's weights and its targets disagree over {'.'.join(sorted(differing)[0])}.")
        for path, leaf in flat.items():
            rank, layers = leaf.shape[-1 if path[-1] == "a" else -2], leaf.shape[0]
            if (rank, layers) != (self.lora.rank, len(self.layers)):
                raise UserError(
                    f"the adapter's {path[-2]} has rank {rank} in {layers} layers, "
                    f"its configuration says rank {self.lora.rank} in {len(self.layers)}."
                )
            d_in, d_out = config.linear_shape(path[-2])
            width = leaf.shape[-2] if path[-1] == "a" else leaf.shape[-1]
            if width != (d_in if path[-1] == "a" else d_out):
                raise UserError(f"the adapter's {path[-2]} is {width} wide, which does not fit this model.")

    def save(self, directory: str | epath.PathLike) -> epath.Path:
        """Writes the adapter; returns its directory.

        Raises:
          UserError: the directory cannot be written to.
        """
        path = as_path(directory)
        # safetensors' NumPy reader knows no bfloat16; float32 holds every bfloat16 number exactly
        tensors = {".".join(key): np.asarray(leaf, np.float32) for key, leaf in flatten_dict(self.weights).items()}
        meta = {
            "format": FORMAT,
            "lora": dataclasses.asdict(self.lora),
            "scale": self.lora.scale,  # for readers that do not know how `lora` makes it
            "layers": list(self.layers),
            "model": self.model,
            "model_fingerprint": self.model_fingerprint,
        }
        try:
            make_folder(path)
            write_whole(path / WEIGHTS, save(tensors))
            write_whole(path / META, (json.dumps(meta, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(f"cannot write the adapter to {path}: {reason(error)}; choose another folder.") from error
        return path


def load_adapter(directory: str | epath.PathLike) -> Adapter:
    """Reads what `Adapter.save` wrote.

    Raises:
      UserError: no adapter, or one that is corrupt or cannot be read.
    """
    path = as_path(directory)
    try:
        with reading(path):
            meta: dict[str, Any] = json.loads((path / META).read_bytes())
            tensors = load((path / WEIGHTS).read_bytes())
    except NOTHING_THERE:
        raise UserError(f"{path} is no adapter directory: it lacks {META} or {WEIGHTS}.") from None
    except UserError:
        raise
    except (ValueError, SafetensorError) as error:
        raise UserError(f"the adapter in {path} is corrupt ({error}).") from None
    if not isinstance(meta, dict):
        raise UserError(f"the adapter in {path} is corrupt ({META} holds no JSON object).")
    if meta.get("format") != FORMAT:
        raise UserError(f"the adapter in {path} has format {meta.get('format')}, this version reads {FORMAT}.")
    kinds = {"layers": list, "lora": dict, "model": str, "model_fingerprint": str}
    wrong = [name for name, kind in kinds.items() if not isinstance(meta.get(name), kind)]
    if wrong:
        raise UserError(f"the adapter in {path} is corrupt ({META} has no such {', '.join(wrong)} as it must).")
    lora = LoraConfig(**meta["lora"])
    scale = meta.get("scale", lora.scale)  # adapters of version 0.1 have none
    if not isinstance(scale, (int, float)) or not math.isclose(scale, lora.scale, rel_tol=1e-9):
        raise UserError(
            f"the adapter in {path} is corrupt (its scale is {scale!r}, its lora settings give {lora.scale})."
        )
    weights = unflatten_dict({tuple(key.split(".")): jnp.asarray(value) for key, value in tensors.items()})
    return Adapter(
        lora=lora,
        layers=tuple(meta["layers"]),
        weights=weights,
        model=meta["model"],
        model_fingerprint=meta["model_fingerprint"],
    )


def stack(adapters: Sequence[Adapter]) -> tuple[AdapterWeights, Float[Array, " N"]]:
    """N adapters as one tree with a leading axis N, ranks padded with zeros to the largest; and their scales.

    Raises:
      UserError: no adapter, or two that differ in their targets or layers.
    """
    if not adapters:
        raise UserError("there is no adapter; give at least one.")
    first, rank = adapters[0], max(adapter.lora.rank for adapter in adapters)
    for adapter in adapters[1:]:
        for what, one, other in (
            ("targets", sorted(first.lora.targets), sorted(adapter.lora.targets)),
            ("layers", list(first.layers), list(adapter.layers)),
        ):
            if one != other:
                raise UserError(f"adapters of one call share their {what}, but these have {one} and {other}.")
    scales = jnp.asarray([adapter.lora.scale for adapter in adapters], jnp.float32)
    return _stacked([adapter.weights for adapter in adapters], rank), scales


@functools.partial(jax.jit, static_argnums=1)
def _stacked(trees: list[AdapterWeights], rank: int) -> AdapterWeights:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[pad_rank(weights, rank) for weights in trees])
