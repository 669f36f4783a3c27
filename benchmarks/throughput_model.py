"""The benchmark's models: a random decoder of the paper's geometry, made on the device and shared with torch.

Nothing is written to disk: torch's model is built from the same `config.json` and filled with a copy of the same arrays
in its own layout, so that both sides can be held to the same losses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from throughput import ALONE

from memlaw_jax.models import Base, Decoder, DecoderConfig, LoraConfig
from memlaw_jax.tasks import Encoded, Sample, pad
from memlaw_jax.training import Cell

PROMPT = 20  # tokens before the answer
RATE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A model and what is measured on it.

    Attributes:
      steps: of each side and round, by tokens of the sequence.
      least: steps of a dispatch at the least, since the host's share of one is spread over them.
      alone: longest sequence that all sides train on; beyond it only ours (does it fit?).
      tolerance: largest relative difference of a loss from the released procedure's in the check before timing; in
        bfloat16 of the first few steps, since roundings grow from step to step.
    """

    config: DecoderConfig
    dtype: str
    tokens: tuple[int, ...]
    adapters: tuple[int, ...]
    ranks: tuple[int, ...]
    steps: dict[int, int]
    least: int = 1
    rounds: int = 3
    alone: int = 1 << 30
    minutes: float | None = None
    tolerance: dict[str, float] = field(default_factory=lambda: {"float32": 1e-4, "bfloat16": 2e-2})

    def steps_of(self, tokens: int) -> int:
        """Those of the next longer sequence in the table, or of the longest."""
        return self.steps[min((known for known in self.steps if known >= tokens), default=max(self.steps))]


def _shape(width: int, layers: int, heads: int, kv_heads: int, head_dim: int, vocabulary: int) -> DecoderConfig:
    return DecoderConfig(
        family="qwen3", vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_layers=layers,
        num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, rope_theta=1e6, max_positions=40_960,
    )  # fmt: skip


SCALES = {
    # The paper's geometry at a sixteenth of its width and a third of its depth: F/D, heads a group, the adapter's depth
    # and the head's share of a forward pass (9 %) are Qwen3-8B's.
    "embedded": Scale(
        config=_shape(256, 12, 8, 2, 32, 3168),
        dtype="float32",
        tokens=(128, 512),
        adapters=(1, 4, 16),
        ranks=tuple(range(1, 17)),
        steps={128: 32, 512: 8, 2048: 2},
    ),
    # The same with Qwen3-8B's V/D instead, which with so few blocks makes the head three times as heavy as there.
    "cpu-head": Scale(
        config=_shape(256, 12, 8, 2, 32, 9472),
        dtype="float32",
        tokens=(512,),
        adapters=(1, 4),
        ranks=tuple(range(1, 17)),
        steps={512: 8},
    ),
    "paper": Scale(
        config=DecoderConfig.qwen3_8b(),
        dtype="bfloat16",
        tokens=(500, 200, 2000),
        adapters=(1, 16),
        ranks=(1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64),
        steps={200: 40, 500: 20, 2000: 10, 10_000: 1},
        least=5,
        alone=ALONE,
        minutes=8.0,
    ),
    "tiny": Scale(
        config=_shape(32, 3, 4, 2, 8, 97),
        dtype="float32",
        tokens=(32, 48),
        adapters=(1, 3),
        ranks=(1, 2, 4),
        steps={32: 4, 48: 4},
        rounds=2,
    ),
}


def random_base(config: DecoderConfig, dtype: str, seed: int = 0) -> Base:
    """A base with random weights on the device, scaled so that activations and logits have about unit size.

    A head's column then has length 1 and a normalised state √D, so that logits can reach √D and any token be learnt.
    """
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    leaves = {}
    for index, (path, leaf) in enumerate(flatten_dict(shapes).items()):
        stacked = path[0] == "layers"
        shape, count = (leaf.shape[1:], leaf.shape[0]) if stacked else (leaf.shape, 1)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), count)
        drawn = _draw(keys, shape, path[-1], dtype)
        leaves[path] = drawn if stacked else drawn[0]
    return Base(
        name="random",
        config=config,
        params=jax.block_until_ready(unflatten_dict(leaves)),
        tokenizer=None,  # type: ignore[arg-type]  # the benchmark's tokens are drawn, not read
        fingerprint="random",
        dtype=dtype,
        directory=epath.Path("."),
    )


def _draw(keys: jax.Array, shape: tuple[int, ...], kind: str, dtype: str) -> jax.Array:
    """A stack of random tensors, drawn one after the other so that no more than one is in float32 at a time."""

    def one(key: jax.Array) -> jax.Array:
        if kind == "scale":
            return jax.random.uniform(key, shape, jnp.float32, 0.5, 1.5).astype(dtype)
        size = shape[0] ** -0.5 if kind == "kernel" else 1.0
        return (size * jax.random.normal(key, shape, jnp.float32)).astype(dtype)

    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


def torch_twin(base: Base) -> Any:
    """The same model in transformers, on the same device, with its own copy of the weights, frozen."""
    import transformers

    raw = base.config.to_hf()
    raw |= {"rope_theta": base.config.rope_theta}  # where transformers 4 looks
    config = transformers.AutoConfig.for_model(**{key: value for key, value in raw.items() if key != "architectures"})
    dtype = getattr(torch, base.dtype)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.load_state_dict(_torch_tensors(base), assign=True, strict=True)
    device = next(model.parameters()).device
    # its frequencies are in no state dict, so they are still on the meta device
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model.eval().requires_grad_(False)


def _torch_tensors(base: Base) -> dict[str, torch.Tensor]:
    """Every weight by its Hugging Face name, `[out, in]` and contiguous as torch's own are."""
    found = {}
    for path, leaf in flatten_dict(base.params).items():
        tensor, kernel = torch.from_dlpack(leaf), path[-1] == "kernel"
        module = ".".join(part for part in path[:-1] if part != "layers")
        if path[0] == "layers":
            named = {f"model.layers.{i}.{module}.weight": tensor[i] for i in range(len(tensor))}
        else:
            named = {f"{module}.weight" if module == "lm_head" else f"model.{module}.weight": tensor}
        for name, part in named.items():
            found[name] = part.T.contiguous() if kernel else part.clone()
    return found


def random_sequence(config: DecoderConfig, tokens: int, seed: int = 0) -> Encoded:
    """One sequence of random tokens, a short prompt and then the answer, as the paper's long context."""
    drawn = [int(token) for token in np.random.default_rng(seed).integers(0, config.vocab_size, tokens)]
    prompt = min(PROMPT, tokens // 2)
    return pad([Sample(key="random", prompt=tuple(drawn[:prompt]), answer=tuple(drawn[prompt:]))], pad_id=0)


def make_cells(ranks: tuple[int, ...], count: int) -> list[Cell]:
    """`count` adapters of the largest ranks, each with its own seed; the first is the one that is trained alone."""
    falling = sorted(ranks, reverse=True)
    return [
        Cell(lora=LoraConfig(rank=falling[i % len(falling)]), seed=i, learning_rate=RATE, name=f"adapter {i}")
        for i in range(count)
    ]
