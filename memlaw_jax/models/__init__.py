"""The frozen decoder, its LoRA adapters, and their files."""

from memlaw_jax.models.adapter import Adapter, load_adapter, stack
from memlaw_jax.models.base import Base, load_base
from memlaw_jax.models.cache import Cache, Fresh, advance, prefill, remember
from memlaw_jax.models.config import DecoderConfig, RopeScaling
from memlaw_jax.models.cut import Cut, Features, Upper, frozen_features, run_upper, upper_shardings, upper_weights
from memlaw_jax.models.decoder import Decoder, head_logits
from memlaw_jax.models.layers import Dropout
from memlaw_jax.models.lora import LoraConfig, init_adapter, pad_rank, scaled, spread, trim_rank

__all__ = [
    "Adapter",
    "Base",
    "Cache",
    "Cut",
    "Decoder",
    "DecoderConfig",
    "Dropout",
    "Features",
    "Fresh",
    "LoraConfig",
    "RopeScaling",
    "Upper",
    "advance",
    "frozen_features",
    "head_logits",
    "init_adapter",
    "load_adapter",
    "load_base",
    "pad_rank",
    "prefill",
    "remember",
    "run_upper",
    "scaled",
    "spread",
    "stack",
    "trim_rank",
    "upper_shardings",
    "upper_weights",
]
