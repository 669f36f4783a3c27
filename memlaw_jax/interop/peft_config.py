"""PEFT's `adapter_config.json`: which modules it names, at what rank and scale, and all that we cannot represent.

The matching rules are PEFT's own (0.21, `tuners_utils.check_target_module_exists`, `utils.other.get_pattern_key`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.interop.files import ADAPTER_CONFIG
from memlaw_jax.models.config import DecoderConfig
from memlaw_jax.models.lora import MLP, PATHS

LINEAR = tuple(target for target in PATHS if target != MLP)
# Modules that PEFT can adapt and we cannot.
_OUTSIDE = ("model.embed_tokens", "lm_head")
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "init_lora_weights", "bias",
}  # fmt: skip
# Keys that change no number of a forward pass, given what is refused elsewhere.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "inference_mode",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
}  # fmt: skip
_REFUSED = {
    "use_dora": "DoRA rescales the base weights",
    "lora_bias": "a bias on B",
    "modules_to_save": "whole modules trained beside the adapter",
    "fan_in_fan_out": "transposed weights",
    "alora_invocation_tokens": "an adapter that only some tokens see",
    "layer_replication": "a model with repeated layers",
    "target_parameters": "adapters on bare parameters",
    "trainable_token_indices": "trained embeddings",
}
# Initialisations that leave the base weights as they are; pissa, olora, corda, loftq, lora_ga change them.
_INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What `adapter_config.json` says, checked. `rank` and `alpha` hold where no pattern says otherwise."""

    where: str
    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: str | tuple[str, ...] | None
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...]
    layers_pattern: tuple[str, ...]

    def rank_of(self, name: str) -> int:
        """The rank of a module by its full name, `model.layers.0.self_attn.q_proj`."""
        return self.rank_pattern.get(self._key(self.rank_pattern, name), self.rank)

    def scale_of(self, name: str) -> float:
        """What B·A is multiplied by there: alpha/r, or alpha/√r with rsLoRA."""
        alpha = self.alpha_pattern.get(self._key(self.alpha_pattern, name), self.alpha)
        rank = self.rank_of(name)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def modules(self, config: DecoderConfig) -> set[tuple[int, str]] | None:
        """The `(layer, target)` that the configuration names in this decoder; None where it names no targets.

        Raises:
          UserError: a module that we cannot adapt, a layer that the decoder lacks.
        """
        beyond = [layer for layer in self.layers if not 0 <= layer < config.num_layers]
        if beyond:
            raise UserError(
                f"{self.where}: layers_to_transform names {beyond[0]}, "
                f"but the model's layers are 0 to {config.num_layers - 1}."
            )
        if self.targets is None:
            return None
        for name in _OUTSIDE:
            if self.targets != "all-linear" and self._named(name):
                raise UserError(f"{self.where}: target_modules names {name}; only linear layers of blocks can be read.")
        return {
            (layer, target)
            for layer in range(config.num_layers)
            for target in LINEAR
            if self._named(module_name(layer, target))
        }

    def _named(self, name: str) -> bool:
        if isinstance(self.excluded, str):
            if self.excluded and self._full(self.excluded, name, "exclude_modules"):
                return False
        elif _ends(name, self.excluded):
            return False
        if isinstance(self.targets, str):
            return self.targets.lower() == "all-linear" or self._full(self.targets, name, "target_modules")
        if name in (self.targets or ()):  # a full name stands whatever the layers say
            return True
        return _ends(name, self.targets or ()) and (not self.layers or self._layer(name) in self.layers)

    def _layer(self, name: str) -> int | None:
        patterns = [rf"(?:^|.*?\.)(?:{pattern})\.(\d+)\." for pattern in self.layers_pattern]
        for pattern in patterns or [r".*?\.[^.]*\.(\d+)\."]:
            if found := self._match(pattern, name, "layers_pattern"):
                return int(found.groups()[-1])
        return None

    def _key(self, pattern: Mapping[str, Any], name: str) -> str:
        return next((key for key in pattern if self._match(rf"(.*\.)?({key})$", name, "a pattern")), "")

    def _full(self, pattern: str, name: str, key: str) -> bool:
        return self._match(rf"(?:{pattern})\Z", name, key) is not None

    def _match(self, pattern: str, name: str, key: str) -> re.Match[str] | None:
        try:
            return re.match(pattern, name)
        except re.error as error:
            raise UserError(f"{self.where}: {key} holds no regular expression ({error}).") from None


def module_name(layer: int, target: str) -> str:
    """A module's name in a Hugging Face causal language model."""
    return ".".join(("model.layers", str(layer), *PATHS[target]))


def read_peft_config(directory: epath.Path) -> PeftConfig:
    """Reads and checks `adapter_config.json`.

    Raises:
      UserError: no such file, corrupt JSON, an impossible value, or a feature that we lack; it is named.
    """
    path = directory / ADAPTER_CONFIG
    try:
        raw = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is no PEFT adapter: it lacks {ADAPTER_CONFIG}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no JSON object.")
    where = str(path)
    _refuse_unsupported(raw, where)
    number = {
        key: _checked(where, key, raw.get(key, 8), ok) for key, ok in (("r", _is_rank), ("lora_alpha", _is_number))
    }
    layers = raw.get("layers_to_transform")
    return PeftConfig(
        where=where,
        rank=number["r"],
        alpha=number["lora_alpha"],
        rslora=_checked(where, "use_rslora", raw.get("use_rslora", False), lambda value: isinstance(value, bool)),
        rank_pattern=_pattern(where, "rank_pattern", raw, _is_rank),
        alpha_pattern=_pattern(where, "alpha_pattern", raw, _is_number),
        targets=_words(where, "target_modules", raw) if raw.get("target_modules") is not None else None,
        excluded=_words(where, "exclude_modules", raw),
        layers=tuple(_checked(where, "layers_to_transform", [layers] if _is_int(layers) else layers or [], _are_ints)),
        layers_pattern=_tuple(_words(where, "layers_pattern", raw)),
    )


def _refuse_unsupported(raw: Mapping[str, Any], where: str) -> None:
    if raw.get("peft_type") != "LORA":
        raise UserError(f"{where}: peft_type is {raw.get('peft_type')!r}; only LORA adapters can be read.")
    for key, what in _REFUSED.items():
        if raw.get(key) not in (None, False, [], {}):
            raise UserError(f"{where}: {key} is {_short(raw[key])}, which means {what}; no adapter here can hold that.")
    if raw.get("bias", "none") != "none":
        raise UserError(f"{where}: bias is {_short(raw['bias'])}; adapters here leave every bias as it is.")
    init = raw.get("init_lora_weights", True)
    if str(init).lower() not in _INITS:
        raise UserError(
            f"{where}: init_lora_weights is {_short(init)}, an adapter to changed base weights; "
            "let PEFT convert it (path_initial_model_for_weight_conversion) and read that."
        )
    known = _READ | _HARMLESS | set(_REFUSED)
    unknown = sorted(key for key, value in raw.items() if key not in known and value not in (None, False, [], {}, ""))
    if unknown:
        raise UserError(f"{where} sets {', '.join(unknown)}, which this version does not know.")


def _checked(where: str, key: str, value: Any, ok: Any) -> Any:
    if not ok(value):
        raise UserError(f"{where}: {key} is {_short(value)}, which is impossible.")
    return value


def _pattern(where: str, key: str, raw: Mapping[str, Any], ok: Any) -> dict[str, Any]:
    pattern = raw.get(key) or {}
    if not isinstance(pattern, dict):
        raise UserError(f"{where}: {key} is {_short(pattern)}, which is impossible.")
    return {name: _checked(where, f"{key} of {name}", value, ok) for name, value in pattern.items()}


def _words(where: str, key: str, raw: Mapping[str, Any]) -> str | tuple[str, ...]:
    value = raw.get(key) or []
    if isinstance(value, str):
        return value
    _checked(where, key, value, lambda words: isinstance(words, list) and all(isinstance(word, str) for word in words))
    return tuple(value)


def _tuple(words: str | tuple[str, ...]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else words


def _ends(name: str, words: Iterable[str]) -> bool:
    return any(name == word or name.endswith(f".{word}") for word in words)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_ints(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_int, value))


def _is_rank(value: Any) -> bool:
    return _is_int(value) and value >= 1


def _is_number(value: Any) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
