"""The frozen base model that adapters are trained on: configuration, weights and tokenizer in one value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from memlaw_jax.errors import UserError
from memlaw_jax.mesh import whole_mesh
from memlaw_jax.models.adapter import Adapter
from memlaw_jax.models.attention import check_attention
from memlaw_jax.models.checkpoint import fingerprint, read_config, read_params
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.cut import Cut, frozen_features, run_upper, upper_weights
from memlaw_jax.models.decoder import Decoder, Params, default_positions, head_kernel, head_logits
from memlaw_jax.models.lora import scaled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED = "embedded"
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt"]
_PASSED_OVER = ["consolidated*", "*/*"]  # the same weights in another form
HOST, DEVICE = "pinned_host", "device"  # kinds of memory
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A frozen decoder with its tokenizer.

    `fingerprint` tells checkpoints apart, `dtype` is that of the weights, `directory` where its files are.
    """

    name: str
    config: DecoderConfig
    params: Params = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    fingerprint: str
    dtype: str
    directory: epath.Path

    @property
    def pad_id(self) -> int:
        """A token to fill rows with; causal attention never looks at it from a real position."""
        return next((i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if i is not None), 0)

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that the weights are spread over; None on a single device."""
        sharding = getattr(jax.tree.leaves(self.params)[0], "sharding", None)
        mesh: Any = sharding.mesh if isinstance(sharding, NamedSharding) else None
        return mesh if mesh is not None and mesh.size > 1 else None

    def logits(self, tokens: Int[Array, "B T"], adapter: Adapter | None = None) -> Float[Array, "B T V"]:
        """Float32 logits of right-padded token rows, with an adapter or without."""
        tokens, params = jnp.asarray(tokens, jnp.int32), self.near()
        if adapter is None:
            return _plain_logits(self.config, params, tokens)
        adapter.check(self.config, self.fingerprint)
        return _adapted_logits(
            self.config, Cut.of(self.config, adapter.lora), params, tokens, adapter.weights, adapter.lora.scale
        )

    @contextmanager
    def spilled(self) -> Iterator[None]:
        """For a while, `params` are in the host's memory: training needs on the device what is above its cut only.

        Meanwhile what needs all of them borrows them with `near`; afterwards they are back in place, if there is room.
        """
        try:
            self._move(HOST)
            yield
        finally:
            with suppress(jax.errors.JaxRuntimeError):
                self._move(DEVICE)

    def near(self) -> Params:
        """The weights on their devices: `params` itself, or a copy of what is spilled, to be dropped after use."""
        return jax.tree.map(lambda leaf: _moved(leaf, DEVICE), self.params)

    def _move(self, memory: str) -> None:
        for name, part in self.params.items():
            self.params[name] = jax.tree.map(lambda leaf: _moved(leaf, memory), part)


def load_base(
    source: str | epath.PathLike, dtype: str = "float32", mesh: Mesh | None = None, attention: str = "auto"
) -> Base:
    """Loads `"embedded"`, a Hugging Face directory, or a hub id that is downloaded or in the local cache.

    Args:
      dtype: of the weights and activations, whatever the files hold.
      mesh: devices to spread the weights over, along all its axes (`memlaw_jax.sharding`); None is one device.
      attention: how it is computed, by platform (`auto`) or by name (`models.attention`).

    Raises:
      UserError: no such model, an unsupported architecture or feature, a missing, extra or mis-shaped tensor, a form of
        attention that does not exist or cannot work here.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; allowed are {', '.join(DTYPES)}.")
    # with explicit axes, jax.make_mesh's default, JAX asks each product for its sharding
    mesh = None if mesh is None or mesh.size == 1 else whole_mesh(mesh)
    directory = model_directory(str(source))
    config = replace(read_config(directory), attention=attention)
    device = jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]
    check_attention(attention, config.head_dim, DTYPES[dtype], device)
    return Base(
        name=EMBEDDED if str(source) == EMBEDDED else str(source),
        config=config,
        params=read_params(directory, config, DTYPES[dtype], mesh),
        tokenizer=_tokenizer(directory),
        fingerprint=fingerprint(directory),
        dtype=dtype,
        directory=directory,
    )


def _moved(leaf: Array, memory: str) -> Array:
    """An array in that kind of memory, spread over the devices as it was."""
    if not isinstance(leaf, jax.Array) or leaf.sharding.memory_kind == memory:  # NumPy's go wherever they are used
        return leaf
    return jax.device_put(leaf, leaf.sharding.with_memory_kind(memory))


def looks_like_hub_id(source: str) -> bool:
    """Whether a name that is no directory here can be `owner/name`."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def model_directory(source: str) -> epath.Path:
    """The directory of a model's files; a hub id is fetched, weights and all, unless it is in the local cache.

    Raises:
      UserError: no such model.
    """
    if source == EMBEDDED:
        return epath.resource_path("memlaw_jax") / "models" / "embedded"
    path = epath.Path(source)
    if path.exists():
        return path
    if not looks_like_hub_id(source):
        raise UserError(f"there is no model directory {source}; give a directory, a hub id (owner/name) or 'embedded'.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return epath.Path(snapshot_download(source, allow_patterns=_FETCHED, ignore_patterns=_PASSED_OVER))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{source} is neither a directory here nor could it be fetched from the hub: {_reason(error)}"
        ) from None


def _tokenizer(directory: epath.Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    # transformers and tokenizers raise whatever comes (KeyError, plain Exception) over files they cannot read
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory))
    except Exception as error:
        raise UserError(f"{directory} holds no tokenizer that transformers can read: {_reason(error)}") from None
    # Without tokenizer files some families (Qwen) give one that encodes every text to nothing.
    if not tokenizer("a").input_ids:
        raise UserError(f"{directory} holds no tokenizer: transformers finds no vocabulary there.")
    return tokenizer


def _reason(error: Exception) -> str:
    """An error on one line, or its kind where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _plain(config: DecoderConfig, params: Params, tokens: Array) -> Array:
    logits: Any = Decoder(config).apply({"params": params}, tokens)
    return logits


def _adapted(config: DecoderConfig, cut: Cut, params: Params, tokens: Array, weights: Any, scale: Any) -> Array:
    positions = default_positions(tokens)
    features = frozen_features(config, params, cut, tokens, positions)
    hidden = run_upper(config, upper_weights(config, params, cut), cut, features, positions, scaled(weights, scale))
    return head_logits(head_kernel(config, params), hidden)


_plain_logits = jax.jit(_plain, static_argnums=0)
_adapted_logits = jax.jit(_adapted, static_argnums=(0, 1))
