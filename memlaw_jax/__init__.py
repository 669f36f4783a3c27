"""How much can a LoRA adapter remember word for word, and how do you make it remember more?

The public face. Names are loaded when first used, so that `import memlaw_jax` is instant and the analysis works where
JAX is not installed. For research code the pure pieces are in `memlaw_jax.models`, `.objectives`, `.training`,
`.readout`, `.tasks`, `.results` and `.analysis`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from memlaw_jax.errors import Preempted, UserError
from memlaw_jax.version import __version__

if TYPE_CHECKING:
    from memlaw_jax.analysis import Law, fit_law, plan
    from memlaw_jax.interop import from_peft, to_peft
    from memlaw_jax.mesh import MeshConfig
    from memlaw_jax.models import Adapter, Base, LoraConfig, load_adapter, load_base
    from memlaw_jax.objectives import MemFTOT, MemFTSW, Sft
    from memlaw_jax.readout import FreeRun, RecallReport, Sampling, decode, free_run
    from memlaw_jax.tasks import LinearRule, LongContext, PhoneBook, RecordsTask, read_records
    from memlaw_jax.training import Curriculum, OptimConfig, SweepConfig, sweep, train

_HOMES = {
    "Adapter": "models",
    "Base": "models",
    "Curriculum": "training",
    "FreeRun": "readout",
    "Law": "analysis",
    "LinearRule": "tasks",
    "LongContext": "tasks",
    "LoraConfig": "models",
    "MemFTOT": "objectives",
    "MemFTSW": "objectives",
    "MeshConfig": "mesh",
    "OptimConfig": "training",
    "PhoneBook": "tasks",
    "RecallReport": "readout",
    "RecordsTask": "tasks",
    "Sampling": "readout",
    "Sft": "objectives",
    "SweepConfig": "training",
    "decode": "readout",
    "fit_law": "analysis",
    "free_run": "readout",
    "from_peft": "interop",
    "load_adapter": "models",
    "load_base": "models",
    "plan": "analysis",
    "read_records": "tasks",
    "recall": "readout",
    "sweep": "training",
    "to_peft": "interop",
    "train": "training",
}

__all__ = ["Preempted", "UserError", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"memlaw_jax.{_HOMES[name]}"), name)
    if name in ("analysis", "interop", "models", "objectives", "readout", "results", "tasks", "training"):
        return importlib.import_module(f"memlaw_jax.{name}")
    raise AttributeError(f"module 'memlaw_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
