"""What the user asked a benchmark for, and the sweeps that follow from it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from etils import epath

from common.numbers import HERE, NAMES, paper
from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path
from memlaw_jax.training import SweepConfig

CONFIGS, TPU_CONFIGS = HERE / "configs", HERE.parent / "tpu_configs"
FILES = {"qwen": "qwen3-8b", "llama": "llama-3.1-8b"}
FAMILIES = {"qwen3": "qwen", "llama": "llama"}
TEXT = HERE.parent / "memlaw_jax" / "models" / "embedded" / "heldout.txt"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One sweep of a benchmark and its folder below the benchmark's own."""

    folder: str
    config: SweepConfig


@dataclass(frozen=True)
class Given:
    """The checked command line of a benchmark."""

    args: argparse.Namespace
    name: str

    @property
    def scale(self) -> str:
        """`embedded`, `paper` or `tiny`."""
        return str(self.args.scale)

    @property
    def out(self) -> epath.Path:
        """The folder of this benchmark's results."""
        usual = self.name if self.scale == "embedded" else f"{self.name}_{self.scale}"
        return as_path(self.args.out or f"runs/{usual}")

    @functools.cached_property
    def family(self) -> str:
        """`qwen` or `llama`: which of the paper's two models the one of `--model` stands for."""
        from memlaw_jax.check.abstract import decoder_config

        found = decoder_config(self.args.model).family
        if found not in FAMILIES:
            raise UserError(
                f"--model {self.args.model} is of the family {found}; the paper has Qwen3-8B and Llama-3.1-8B-Instruct."
            )
        return FAMILIES[found]

    @property
    def model(self) -> str:
        """The paper's name of the model that this run stands beside."""
        return NAMES[self.family] if self.scale == "paper" else NAMES["qwen"]

    def pytorch(self) -> pd.DataFrame | None:
        """The runs of `--pytorch`, if it was given."""
        from memlaw_jax.analysis import read_frame

        return None if self.args.pytorch is None else read_frame(self.args.pytorch)

    def sweep(self, config: str, overrides: Sequence[str] = ()) -> SweepConfig:
        """One of `benchmarks/configs`, changed by these overrides and then by the user's own."""
        return self._read(CONFIGS / f"{config}.yaml", overrides)

    def paper_sweep(self, task: str, overrides: Sequence[str] = ()) -> SweepConfig:
        """The file of `tpu_configs/` for the hardware, the model and a task (`long_context`, `phonebook`), changed.

        With the paper's seed and SFT, whatever the file has for machines with room for more.
        """
        path = TPU_CONFIGS / f"{self.args.hardware}_{FILES[self.family]}_{task}.yaml"
        if not path.exists():
            there = sorted(one.name.split("_")[0] for one in TPU_CONFIGS.glob(f"*_{FILES[self.family]}_{task}.yaml"))
            raise UserError(
                f"--hardware {self.args.hardware} has no file in tpu_configs/ for {NAMES[self.family]} and {task}; "
                f"there are files for {', '.join(there)}."
            )
        alike = [f"model={self.args.model}", f"seeds=[{paper()['protocol']['seed']}]", "methods=[sft]"]
        return self._read(path, [*alike, *overrides])

    def _read(self, path: Any, overrides: Sequence[str]) -> SweepConfig:
        from memlaw_jax.cli.config import read_config

        return read_config(path, [*overrides, *self.args.overrides])
