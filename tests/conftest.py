"""What the folders share: a tiny model on disk and in memory, quick compilation, and subprocesses like ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memlaw_jax.models import Base

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of 4 layers in Hugging Face layout, one token a character; its logits have unit scale."""
    from models import tiny

    raw = tiny.CASES["qwen3"] | {"max_position_embeddings": 256}
    return tiny.write(tmp_path_factory.mktemp("tiny") / "model", "qwen3", raw=raw)


@pytest.fixture(scope="session")
def base(tiny_dir: Path) -> Base:
    """The tiny model, float32."""
    from memlaw_jax.models import load_base

    return load_base(str(tiny_dir))


@pytest.fixture(scope="session")
def compiled_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """XLA's compiled programs of this session, so that a subprocess need not compile what was compiled already."""
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def quick_compiler(compiled_before: Path) -> Iterator[None]:
    """Half of XLA's compile time goes into speed that tests do not need; no arithmetic they are about changes.

    Accelerators round the factors of a float32 product by default; the tolerances here are those of float32.
    """
    import jax

    wanted = {
        "jax_disable_most_optimizations": True,
        "jax_default_matmul_precision": "highest",
        "jax_compilation_cache_dir": str(compiled_before),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    before = {name: getattr(jax.config, name, False) for name in wanted}  # the first cannot be read; it is False
    for name, value in wanted.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def child_environment(compiled_before: Path) -> dict[str, str]:
    """The environment of a Python subprocess that compiles as `quick_compiler` does, on the CPU."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_COMPILATION_CACHE_DIR": str(compiled_before),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs these tests."""
    return sys.executable
