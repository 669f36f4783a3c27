"""The frozen decoder, its LoRA adapters, and their files."""

from memlaw_jax.models.adapter import Adapter, load_adapter
from memlaw_jax.models.base import Base, load_base
from memlaw_jax.models.config import DecoderConfig, RopeScaling
from memlaw_jax.models.cut import Cut, Features, Upper, frozen_features, run_upper, upper_weights
from memlaw_jax.models.decoder import Decoder, head_logits
from memlaw_jax.models.layers import Dropout
from memlaw_jax.models.lora import LoraConfig, init_adapter, pad_rank, scaled, trim_rank

__all__ = [
    "Adapter",
    "Base",
    "Cut",
    "Decoder",
    "DecoderConfig",
    "Dropout",
    "Features",
    "LoraConfig",
    "RopeScaling",
    "Upper",
    "frozen_features",
    "head_logits",
    "init_adapter",
    "load_adapter",
    "load_base",
    "pad_rank",
    "run_upper",
    "scaled",
    "trim_rank",
    "upper_weights",
]
