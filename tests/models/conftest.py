from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from memlaw_jax.models import DecoderConfig
from memlaw_jax.models.checkpoint import read_config, read_params

from . import tiny


class Model(NamedTuple):
    directory: Path
    config: DecoderConfig
    params: Any


@pytest.fixture(scope="session", autouse=True)
def exact_products() -> Iterator[None]:
    """Accelerators round the factors of a float32 product by default; the tolerances here are those of float32."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """`model(name, dtype="float32")`: a tiny checkpoint, written once, read through the package."""

    @functools.cache
    def directory(name: str) -> Path:
        return tiny.write(tmp_path_factory.mktemp(name), name)

    @functools.cache
    def load(name: str, dtype: str = "float32") -> Model:
        path = epath.Path(directory(name))
        config = read_config(path)
        return Model(directory(name), config, read_params(path, config, jnp.dtype(dtype)))

    return load
