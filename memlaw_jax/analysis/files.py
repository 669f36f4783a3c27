"""Writing outputs: whole or not at all, with one sentence when the disk says no."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from etils import epath

from memlaw_jax.errors import UserError


def folder(out: str | os.PathLike[str]) -> epath.Path:
    """The output folder, made if need be; a bucket URL works like a folder. Raises `UserError` if it cannot be made."""
    path = epath.Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(_sentence(path, problem)) from problem
    return path


def write(path: epath.Path, content: bytes | str) -> epath.Path:
    """Write a file beside its place and move it there, so that a reader never meets half a file."""
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(_sentence(path, problem)) from problem
    return path


def _sentence(path: Any, problem: OSError) -> str:
    return f"cannot write {path}: {problem.strerror or problem}; choose an output folder that can be written"
