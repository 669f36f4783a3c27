"""Writing outputs: whole or not at all, with one sentence when the disk says no."""

from __future__ import annotations

from typing import Any

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import as_path, make_folder, reason, write_whole


def folder(out: epath.PathLike) -> epath.Path:
    """The output folder, made if need be; a bucket URL works like a folder. Raises `UserError` if it cannot be made."""
    path = as_path(out)
    try:
        make_folder(path)
    except OSError as problem:
        raise UserError(_sentence(path, problem)) from problem
    return path


def write(path: epath.Path, content: bytes | str) -> epath.Path:
    """Write a file so that a reader never meets half of it. Raises `UserError` if it cannot be written."""
    try:
        write_whole(path, content.encode() if isinstance(content, str) else content)
    except OSError as problem:
        raise UserError(_sentence(path, problem)) from problem
    return path


def _sentence(path: Any, problem: OSError) -> str:
    return f"cannot write {path}: {reason(problem)}; choose an output folder that can be written"
