"""Tiny checkpoints of every supported family and variant, in Hugging Face layout, without torch and without memlaw_jax.

Weights come from a generator seeded by checkpoint and tensor name, so nothing is stored and shards, dtypes and goldens
agree. They are scaled so that logits have about unit scale, which is what makes an absolute tolerance mean something.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
VOCABULARY = 97
PAD, END = "<|pad|>", "<|end|>"

# Wavelengths of a 16-wide head at theta 10,000 are 2π·(1, 3.2, 10, …) tokens, so with an original length of 32 this
# keeps the first pair, blends the second and stretches the rest: all three branches of the scaling.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def _config(model_type: str, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "architectures": [{"qwen3": "Qwen3", "qwen2": "Qwen2"}.get(model_type, model_type.title()) + "ForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **more,
    }


CASES: dict[str, dict[str, Any]] = {
    "qwen3": _config(
        "qwen3", 4, 4, 2, head_dim=24, rms_norm_eps=1e-6, attention_bias=False, use_sliding_window=False,
        sliding_window=None, max_window_layers=4, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen3-tied": _config("qwen3", 3, 4, 1, head_dim=32, rope_theta=1e6, rope_scaling=None, tie_word_embeddings=True),
    "llama3-new-schema": _config("llama", 3, 4, 1, rope_parameters={"rope_theta": 10_000.0, **LLAMA3}),
    "llama3-old-schema": _config(
        "llama", 5, 4, 2, head_dim=16, rope_theta=10_000.0, rope_scaling=LLAMA3, tie_word_embeddings=True,
        attention_bias=False, mlp_bias=False, pretraining_tp=1,
    ),
    "llama-linear": _config("llama", 3, 4, 4, rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0}),
    "qwen2": _config(
        "qwen2", 3, 4, 2, rope_theta=1e6, use_sliding_window=False, sliding_window=4096, max_window_layers=3
    ),
    "qwen2-sliding-tied": _config(
        "qwen2", 4, 4, 1, rope_theta=1e4, use_sliding_window=True, sliding_window=4, max_window_layers=0,
        tie_word_embeddings=True,
    ),
    "mistral": _config("mistral", 4, 4, 1, rope_theta=10_000.0, sliding_window=5),
    "mistral-full": _config("mistral", 3, 6, 2, head_dim=16, rope_theta=1e6, sliding_window=None),
}  # fmt: skip

LENGTHS = (16, 9, 5)  # all but the shortest exceed the sliding windows


def tensors(name: str, raw: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """All weights of a checkpoint by their Hugging Face names, float32."""
    raw = CASES[name] if raw is None else raw
    hidden, inner, heads = raw["hidden_size"], raw["intermediate_size"], raw["num_attention_heads"]
    head_dim = raw.get("head_dim") or hidden // heads
    wide, narrow = heads * head_dim, raw["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (raw["vocab_size"], hidden)}
    for layer in range(raw["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {
            block + "input_layernorm.weight": (hidden,),
            block + "self_attn.q_proj.weight": (wide, hidden),
            block + "self_attn.k_proj.weight": (narrow, hidden),
            block + "self_attn.v_proj.weight": (narrow, hidden),
            block + "self_attn.o_proj.weight": (hidden, wide),
            block + "post_attention_layernorm.weight": (hidden,),
            block + "mlp.gate_proj.weight": (inner, hidden),
            block + "mlp.up_proj.weight": (inner, hidden),
            block + "mlp.down_proj.weight": (hidden, inner),
        }
        if raw["model_type"] == "qwen3":
            shapes |= {block + f"self_attn.{x}_norm.weight": (head_dim,) for x in "qk"}
        if raw["model_type"] == "qwen2":
            widths = {"q": wide, "k": narrow, "v": narrow}
            shapes |= {block + f"self_attn.{x}_proj.bias": (width,) for x, width in widths.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not raw["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (raw["vocab_size"], hidden)
    return {tensor: _draw(f"{name}/{tensor}", shape) for tensor, shape in shapes.items()}


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if "norm" in key.rsplit("/", 1)[-1]:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 0.5 if len(shape) == 1 else shape[-1] ** -0.5
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def write(
    directory: Path,
    name: str,
    *,
    dtype: str = "float32",
    shards: int = 1,
    tokenizer: bool = True,
    raw: dict[str, Any] | None = None,
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    """Writes a checkpoint directory; `raw` and `weights` replace the usual config and tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = CASES[name] if raw is None else raw
    (directory / "config.json").write_text(json.dumps(raw | {"torch_dtype": dtype}, indent=2))
    weights = tensors(name, raw) if weights is None else weights
    # Integers stay what they are: some tests want a tensor that cannot be read.
    cast = {key: value.astype(DTYPES[dtype]) if value.dtype.kind == "f" else value for key, value in weights.items()}
    if shards == 1:
        save_file(cast, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        files = {key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(cast)}
        for file in sorted(set(files.values())):
            part = {key: value for key, value in cast.items() if files[key] == file}
            save_file(part, directory / file, metadata={"format": "pt"})
        index = {"metadata": {"total_size": sum(value.nbytes for value in cast.values())}, "weight_map": files}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    if tokenizer:
        write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    """One token for each printable ASCII character, and two control tokens: 97 in all."""
    letters = [chr(code) if code > 32 else "Ġ" for code in range(32, 127)]
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([PAD, END])
    made.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "eos_token": END}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def right_padded() -> tuple[np.ndarray, np.ndarray]:
    """`(tokens, valid)`, both `[3, 16]`: rows of 16, 9 and 5 tokens, then padding that is not token 0."""
    rng = np.random.default_rng(7)
    tokens, valid = np.full((len(LENGTHS), max(LENGTHS)), 3), np.zeros((len(LENGTHS), max(LENGTHS)), bool)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length], valid[row, :length] = rng.integers(0, VOCABULARY, length), True
    return tokens.astype(np.int32), valid


def left_padded() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(tokens, positions, valid)`: the same rows, padding in front, positions from the first token."""
    tokens, valid = right_padded()
    for row, length in enumerate(LENGTHS):
        tokens[row], valid[row] = np.roll(tokens[row], -length), np.roll(valid[row], -length)
    return tokens, np.maximum(np.cumsum(valid, axis=1) - 1, 0).astype(np.int32), valid
