"""Output folders: none that holds a model is written over, and a disk that refuses is told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.paths import make_folder, refusals

MODEL_CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


def refuse_model(directory: epath.Path) -> None:
    """An adapter in a model's folder would be lost in it, or be applied by whoever loads the model."""
    if (directory / MODEL_CONFIG).exists():
        raise UserError(f"{directory} holds a model ({MODEL_CONFIG}); choose another folder.")


@contextmanager
def writing(directory: epath.Path) -> Iterator[None]:
    """Makes the folder; an error of the disk on the way becomes a UserError."""
    try:
        make_folder(directory)
        with refusals(directory):
            yield
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror or error}; choose another folder.") from error
