from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    """`model(name)`: a tiny checkpoint, written once, read through the package.

    `params` are NumPy arrays, so that slices of layers cost no compilation of their own.
    """

    @functools.cache
    def load(name: str) -> Model:
        directory = tiny.write(tmp_path_factory.mktemp(name), name)
        config = read_config(epath.Path(directory))
        params = read_params(epath.Path(directory), config, jnp.float32)
        return Model(directory, config, jax.tree.map(np.asarray, params))

    return load
