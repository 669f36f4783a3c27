"""What a result file says of the machine and the command, without the machine's own paths."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def hardware() -> dict[str, Any]:
    """Hardware, date, commit and versions."""
    import jax

    from memlaw_jax.results import commit, now, versions

    device = jax.devices()[0]
    name = _cpu() if device.platform == "cpu" else f"{jax.device_count()} × {device.device_kind}"
    return {
        "hardware": name,
        "date": now(),
        "git": commit(),
        "versions": {"python": platform.python_version()} | versions(),
    }


def _cpu() -> str:
    """The processor and how many of its cores may be used."""
    told = Path("/proc/cpuinfo")  # Linux only
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} {'core' if cores == 1 else 'cores'} of {names[0] if names else platform.processor()}"


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command that made a result."""
    return " ".join(["python", f"benchmarks/{script}", *map(without_places, arguments)])


def without_places(text: str) -> str:
    """A text with the last part alone of every absolute path in it."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)*([\w.+-]*)", r"\1", text)
