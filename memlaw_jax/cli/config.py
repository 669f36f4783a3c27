"""A sweep's YAML with `key=value` overrides, as a checked `SweepConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from memlaw_jax.errors import UserError
from memlaw_jax.training.sweep_config import SweepConfig


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Reads and checks a config; an override such as `optim.steps=200` or `ranks=[1,2]` replaces what the file says.

    Raises:
      UserError: an unreadable file, an unknown key or an impossible value; it names the key and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no config file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the config file {path} cannot be read: {error}.") from None
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"the config file {path} must hold `key: value` lines, at least `task` and `ranks`.")
    for override in overrides:
        _set(values, override)
    try:
        return SweepConfig(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except TypeError:
        raise UserError(f"{path}: every key must be a word, not {', '.join(map(repr, values))}.") from None


def _set(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"override {override!r} is not of the form key=value, such as optim.steps=200.")
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"override {override!r} goes into {part}, which holds a plain value.")
    values[last] = _parse(text, f"override {override!r}")


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None
