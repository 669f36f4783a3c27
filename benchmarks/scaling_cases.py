"""The cases of `scaling.py`: configs of `tpu_configs/`, and changes of two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "tpu_configs"
MODELS = ("qwen3-8b", "llama-3.1-8b")
TASKS = ("long_context", "phonebook")
SLICES = ("v5e-16", "v5e-8", "v5e-256", "2xv5e-16", "v6e-16", "v5p-32", "v4-32", "v6e-8", "v6e-256")
GPUS = ("h200-8", "h100-1")
BESIDE = ("v5e-16_qwen3-8b_long_context", "v5e-16_qwen3-8b_phonebook")  # adapters only, beside the other meshes


@dataclass(frozen=True, kw_only=True)
class Case:
    """One check: a file of `tpu_configs/` with overrides of `memlaw check`; `group` is where the tables show it."""

    name: str
    config: str
    group: str
    overrides: Sequence[str] = field(default=())

    @property
    def path(self) -> Path:
        """Its config."""
        return CONFIGS / self.config


def cases() -> list[Case]:
    """All of them, those that tell most first."""
    files = [_file(name, model, task) for name in SLICES[:3] for task in TASKS for model in MODELS]
    rest = [_file(name, model, task) for name in SLICES[3:] for task in TASKS for model in MODELS]
    long, phone = "v5e-16_qwen3-8b_long_context.yaml", "v5e-16_qwen3-8b_phonebook.yaml"
    meshes = [
        _mesh("fsdp-16", long, "{fsdp: 16, adapters: 1}", 16),
        _mesh("tensor-8", long, "{tensor: 8, adapters: 2}", 2),
        _mesh("data-16", phone, "{data: 16, adapters: 1}", 1),
        _mesh("fsdp-4", long, "{fsdp: 4, adapters: 4}", 16),
        _mesh("tensor-2", long, "{tensor: 2, adapters: 8}", 8),
        _mesh("fsdp-16_phonebook", phone, "{fsdp: 16, adapters: 1}", 16),
        Case(name="mesh_two-lanes", config=long, group="mesh", overrides=("lanes=32", "seeds=[42,43]")),
    ]
    fewer = [
        Case(
            name=f"v5e-{chips}_{model}_{task}", config=f"v5e-16_{model}_{task}.yaml", group="chips",
            overrides=(f"hardware=v5e-{chips}", f"lanes={chips}", *_seeds(chips)),
        )
        for chips in (1, 4, 64) for task in TASKS for model in MODELS
    ]  # fmt: skip
    others = [
        *[_file(name, model, task) for name in GPUS for task in TASKS for model in MODELS],
        Case(name="smoke_embedded", config="smoke_embedded.yaml", group="smoke"),
    ]
    return [*files[:4], *meshes[:3], *files[4:], *rest[:1], *meshes[3:], *rest[1:], *fewer, *others]


def _file(hardware: str, model: str, task: str) -> Case:
    name = f"{hardware}_{model}_{task}"
    return Case(name=name, config=f"{name}.yaml", group="file")


def _mesh(name: str, config: str, sizes: str, lanes: int) -> Case:
    return Case(
        name=f"mesh_{name}", config=config, group="mesh", overrides=(f"mesh={{ici: {sizes}}}", f"lanes={lanes}")
    )


def _seeds(chips: int) -> tuple[str, ...]:
    return (f"seeds={list(range(42, 42 + chips // 16))}",) if chips > 16 else ()
