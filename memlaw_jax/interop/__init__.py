"""Adapters to and from other tools: PEFT, plain torch, merged checkpoints, the paper's release.

`torch_hook` needs torch and safetensors alone, so nothing here is loaded before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memlaw_jax.interop.merge import write_merged
    from memlaw_jax.interop.peft import from_peft, to_peft
    from memlaw_jax.interop.release import from_release, to_release

_HOMES = {
    "from_peft": "peft",
    "from_release": "release",
    "to_peft": "peft",
    "to_release": "release",
    "write_merged": "merge",
}

__all__ = ["from_peft", "from_release", "to_peft", "to_release", "write_merged"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"memlaw_jax.interop.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
