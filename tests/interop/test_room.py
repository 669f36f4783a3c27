"""What the outside may use, and that the hook for torch needs nothing of ours."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

import memlaw_jax as ml


def test_every_name_resolves_and_two_are_public() -> None:
    for name in ml.interop.__all__:
        assert callable(getattr(ml.interop, name))
    assert ml.to_peft is ml.interop.to_peft and ml.from_peft is ml.interop.from_peft
    with pytest.raises(AttributeError, match="to_onnx"):
        _ = ml.interop.to_onnx


def test_entering_the_room_loads_neither_jax_nor_torch(python: str) -> None:
    code = "import sys, memlaw_jax.interop; print(*(n for n in ('jax', 'torch', 'safetensors') if n in sys.modules))"
    child = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert child.stdout.split() == [], child.stderr


def test_the_hook_imports_only_what_torch_users_have() -> None:
    """The file is copied next to adapters, away from this package."""
    source = (Path(ml.__file__).parent / "interop" / "torch_hook.py").read_text()
    modules = set()
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Import):
            modules |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            modules.add(part.module)
    assert modules == {"__future__", "json", "pathlib", "typing", "torch", "safetensors.torch"}


@pytest.mark.parity
def test_the_hook_works_where_jax_is_not_installed(python: str) -> None:
    code = "import sys; sys.modules['jax'] = None\nfrom memlaw_jax.interop.torch_hook import attach\nprint(attach)"
    child = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert child.stdout.startswith("<function attach"), child.stderr
