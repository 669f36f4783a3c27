"""What a decoder is, in numbers: read from a Hugging Face `config.json`, written back to one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from memlaw_jax.errors import UserError

ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "mistral": "MistralForCausalLM",
}

# Forms of attention (`models.attention`).
ATTENTION = ("auto", "xla", "cudnn", "splash")

# Keys of `config.json` that change no number of a forward pass in evaluation mode, or are read below.
_READ = {
    "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings",
    "attention_bias", "mlp_bias", "hidden_act", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings", "quantization_config",
}  # fmt: skip
_HARMLESS = {
    "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "initializer_range",
    "pretraining_tp", "transformers_version", "use_cache", "is_decoder", "chunk_size_feed_forward", "id2label",
    "label2id", "output_attentions", "output_hidden_states", "return_dict", "problem_type", "_name_or_path",
    "is_encoder_decoder",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.x frequency scaling (`rope_type: llama3`) or plain position interpolation (`linear`).

    `low_freq_factor`, `high_freq_factor` and `original_max_positions` serve `llama3` only.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape and constants of one decoder of the Qwen3, Llama 3.x, Qwen2/2.5 or Mistral family.

    Widths are numbers of features, `sliding_window` a number of tokens (None: full causal attention),
    `max_positions` the longest sequence in tokens that the checkpoint claims to handle. `attention` is how to compute
    it, one of `ATTENTION`: no part of a checkpoint, neither read from a `config.json` nor written to one.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    sliding_window: int | None = None
    max_positions: int = 4096
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            raise UserError(f"attention is {self.attention!r}; allowed are {', '.join(ATTENTION)}.")
        if self.family not in ARCHITECTURES:
            raise UserError(f"model family {self.family!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be at least 1")
        positive = {"rope_theta": self.rope_theta, "rms_norm_eps": self.rms_norm_eps}
        if self.sliding_window is not None:
            positive["sliding_window"] = self.sliding_window
        if self.rope_scaling is not None:
            positive["rope scaling's factor"] = self.rope_scaling.factor
        for name, value in positive.items():
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise UserError(f"{name} is {value!r}, it must be a number above 0")
        if self.num_heads % self.num_kv_heads:
            raise UserError(f"{self.num_heads} attention heads do not divide into {self.num_kv_heads} key/value heads")
        if self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}, rotary embeddings need an even one")

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are RMS-normalised per head (Qwen3)."""
        return self.family == "qwen3"

    @property
    def paper_layer(self) -> int:
        """The block two thirds of the way up, where the paper puts its bypass (24 of 36 in Qwen3-8B).

        The paper's other model, Llama-3.1-8B, has it at 18 of 32, which is a little lower (PAPER.md, section 2).
        """
        return min(self.num_layers * 2 // 3, self.num_layers - 1)

    def linear_shape(self, name: str) -> tuple[int, int]:
        """`(d_in, d_out)` of a linear layer by its Hugging Face name, or of the `mlp` bypass."""
        heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes = {
            "q_proj": (self.hidden_size, heads),
            "k_proj": (self.hidden_size, kv),
            "v_proj": (self.hidden_size, kv),
            "o_proj": (heads, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
            "mlp": (self.hidden_size, self.hidden_size),
        }
        return shapes[name]

    def with_layers(self, num_layers: int) -> DecoderConfig:
        """The same decoder with another depth."""
        return replace(self, num_layers=num_layers)

    @classmethod
    def qwen3_8b(cls) -> DecoderConfig:
        """Qwen3-8B, the paper's main model."""
        return cls(
            family="qwen3", vocab_size=151_936, hidden_size=4096, intermediate_size=12_288, num_layers=36,
            num_heads=32, num_kv_heads=8, head_dim=128, rope_theta=1e6, max_positions=40_960,
        )  # fmt: skip

    @classmethod
    def llama31_8b(cls) -> DecoderConfig:
        """Llama-3.1-8B(-Instruct), the paper's second model."""
        return cls(
            family="llama", vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_layers=32,
            num_heads=32, num_kv_heads=8, head_dim=128, rope_theta=500_000.0, rms_norm_eps=1e-5,
            rope_scaling=RopeScaling(kind="llama3", factor=8.0), max_positions=131_072,
        )  # fmt: skip

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> DecoderConfig:
        """Reads the dictionary of a Hugging Face `config.json`, old or new rope schema.

        Raises:
            UserError: an architecture or a feature that this decoder lacks; it is named.
        """
        family = raw.get("model_type")
        if family not in ARCHITECTURES:
            raise UserError(
                f"config.json says model_type {family!r}, which is not supported; supported: {', '.join(ARCHITECTURES)}"
            )
        _refuse_unsupported(raw)
        heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
        theta, scaling = _rope(raw)
        return cls(
            family=family,
            vocab_size=raw["vocab_size"],
            hidden_size=hidden,
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or hidden // heads,
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=family == "qwen2",
            sliding_window=_sliding_window(raw, family),
            max_positions=raw.get("max_position_embeddings", 4096),
        )

    def to_hf(self) -> dict[str, Any]:
        """The dictionary of a `config.json` that transformers 5 and `from_hf` read."""
        rope: dict[str, Any] = {"rope_theta": self.rope_theta, "rope_type": "default"}
        if self.rope_scaling is not None:
            scaling = asdict(self.rope_scaling)
            rope |= {"rope_type": scaling.pop("kind"), "factor": scaling["factor"]}
            if rope["rope_type"] == "llama3":
                rope |= {
                    "low_freq_factor": scaling["low_freq_factor"],
                    "high_freq_factor": scaling["high_freq_factor"],
                    "original_max_position_embeddings": scaling["original_max_positions"],
                }
        raw: dict[str, Any] = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_positions,
            "rope_parameters": rope,
        }
        if self.family in ("qwen3", "llama"):
            raw["attention_bias"] = False
        if self.family == "mistral" or self.sliding_window is not None:
            raw["sliding_window"] = self.sliding_window
        if self.family in ("qwen2", "qwen3"):
            raw["use_sliding_window"] = self.sliding_window is not None
            raw["max_window_layers"] = 0 if self.sliding_window is not None else self.num_layers
        return raw


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    if raw.get("quantization_config"):
        found = raw["quantization_config"]
        method = found.get("quant_method", "unknown") if isinstance(found, Mapping) else found
        raise UserError(f"the checkpoint is quantised ({method}); load the unquantised weights instead")
    if raw.get("auto_map"):
        raise UserError("config.json brings modelling code of its own (auto_map), which this decoder cannot run")
    if raw.get("hidden_act", "silu") != "silu":
        raise UserError(f"hidden_act is {raw['hidden_act']!r}; this decoder has 'silu' (SwiGLU) only")
    for name in ("attention_bias", "mlp_bias"):
        if raw.get(name) and raw["model_type"] != "qwen2":
            raise UserError(f"{name} is true for a {raw['model_type']} model, which this decoder lacks")
    missing = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"} - set(raw)
    if missing:
        raise UserError(f"config.json lacks {', '.join(sorted(missing))}")
    sizes = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    sizes |= {name for name in ("num_key_value_heads", "head_dim") if raw.get(name) is not None}
    for name in sorted(sizes):
        if not isinstance(raw[name], int):
            raise UserError(f"config.json says {name} is {raw[name]!r}, it must be a whole number")
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(raw.get(name) or {}, Mapping):
            raise UserError(f"config.json says {name} is {raw[name]!r}, it must hold keys and values")
    if raw["model_type"] == "llama" and raw.get("sliding_window"):
        raise UserError("config.json sets sliding_window for a llama model, which has full attention only")
    unknown = {key for key, value in raw.items() if value not in (None, False, 0, {}, [])} - _READ - _HARMLESS
    if unknown:
        raise UserError(
            f"config.json sets {', '.join(sorted(unknown))}, which this decoder does not know; "
            "remove the key if it changes no number of the forward pass"
        )


_ROPE_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def _rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base frequency and scaling, from `rope_parameters` or from the older `rope_theta` and `rope_scaling`."""
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    if new and "rope_theta" not in new and "rope_type" not in new:
        raise UserError(f"rope_parameters differ by layer type ({', '.join(new)}), which this decoder lacks")
    scaling = dict(new or old or {})
    thetas = {float(where["rope_theta"]) for where in (raw, scaling) if where.get("rope_theta") is not None}
    if len(thetas) > 1:
        raise UserError(f"config.json says rope_theta is {' and '.join(map(str, sorted(thetas)))}; remove one")
    stated = {"rope_type" if key == "type" else key: value for key, value in (old or {}).items()}
    if new and any(new.get(key, value) != value for key, value in stated.items()):
        raise UserError("config.json says rope_parameters and rope_scaling, which differ; remove one")
    theta = thetas.pop() if thetas else 10_000.0
    scaling.pop("rope_theta", None)
    kinds = [scaling.pop(name) for name in ("rope_type", "type") if name in scaling]  # the second is the oldest name
    kind = next((kind for kind in kinds if kind), "default")
    if kind not in _ROPE_NEEDS:
        raise UserError(f"rope scaling {kind!r} is not supported; supported: {', '.join(_ROPE_NEEDS)}")
    if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("partial_rotary_factor is not 1, this decoder rotates whole heads only")
    missing = [name for name in _ROPE_NEEDS[kind] if scaling.get(name) is None]
    if missing:
        raise UserError(f"rope scaling {kind!r} lacks {', '.join(missing)}")
    unknown = sorted(name for name in scaling if name not in _ROPE_NEEDS[kind] and scaling[name] is not None)
    if unknown:
        raise UserError(f"rope scaling {kind!r} sets {', '.join(unknown)}, which this decoder does not know")
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind=kind, factor=float(scaling["factor"]))
    return theta, RopeScaling(
        kind=kind,
        factor=float(scaling["factor"]),
        low_freq_factor=float(scaling["low_freq_factor"]),
        high_freq_factor=float(scaling["high_freq_factor"]),
        original_max_positions=int(scaling["original_max_position_embeddings"]),
    )


def _sliding_window(raw: Mapping[str, Any], family: str) -> int | None:
    """One window for every layer or none; a mixture is refused by name."""
    # transformers' default where Mistral's config leaves the key out
    window, layers = raw.get("sliding_window", 4096 if family == "mistral" else None), raw["num_hidden_layers"]
    if family in ("qwen2", "qwen3") and not raw.get("use_sliding_window", False):
        window = None
    kinds = set(raw.get("layer_types") or ())
    if not kinds and family in ("qwen2", "qwen3") and window:
        first = raw.get("max_window_layers", 28)  # transformers' default: layers below keep full attention
        kinds = {"sliding_attention" if i >= first else "full_attention" for i in range(layers)}
    if kinds - {"full_attention", "sliding_attention"}:
        raise UserError(f"layer_types holds {', '.join(sorted(kinds))}; this decoder has full and sliding attention")
    if window and len(kinds) > 1:
        raise UserError("the checkpoint mixes sliding-window and full-attention layers, a pattern this decoder lacks")
    if kinds == {"full_attention"} or window is None or family == "llama":
        return None
    return int(window)
