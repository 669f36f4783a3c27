"""A base model without its weights: shapes, and a tokenizer."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, DecoderConfig
from memlaw_jax.models.base import DTYPES, EMBEDDED, load_base, model_directory
from memlaw_jax.models.checkpoint import abstract_params, read_config

KNOWN = {
    "Qwen/Qwen3-8B": DecoderConfig.qwen3_8b,
    "meta-llama/Llama-3.1-8B": DecoderConfig.llama31_8b,
    "meta-llama/Llama-3.1-8B-Instruct": DecoderConfig.llama31_8b,
}


def abstract_base(model: str, dtype: str, attention: str) -> tuple[Base, bool]:
    """A base whose `params` are shapes, and whether the tokenizer is its own.

    Of a directory its `config.json` is read; of a hub id nothing is fetched. Where the model's tokenizer is not at
    hand, the embedded model's stands in for it.

    Raises:
      UserError: a dtype, or a model whose shapes are not known here.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; allowed are {', '.join(DTYPES)}.")
    own = _own_tokenizer(model)
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, DTYPES[dtype]),
        abstract_params(config := dataclasses.replace(decoder_config(model), attention=attention)),
    )
    return Base(
        name=model, config=config, params=params, tokenizer=load_base(EMBEDDED).tokenizer if own is None else own,
        fingerprint="abstract", dtype=dtype, directory=epath.Path("."),
    ), own is not None  # fmt: skip


def decoder_config(model: str) -> DecoderConfig:
    """The shape of a model by name, or by the `config.json` of its directory."""
    if model in KNOWN:
        return KNOWN[model]()
    if model != EMBEDDED and not epath.Path(model).exists():
        raise UserError(
            f"model is {model!r}, of which no shapes are known here; give a directory that holds its config.json, or "
            f"one of {', '.join(KNOWN)}, {EMBEDDED}."
        )
    return read_config(model_directory(model))


def _own_tokenizer(model: str) -> Any:
    """The model's tokenizer if it is on this machine; None if not."""
    from transformers import AutoTokenizer

    source = str(model_directory(model)) if model == EMBEDDED or epath.Path(model).exists() else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except Exception:  # transformers raises whatever comes over files that are missing
        return None
    return tokenizer if tokenizer("a").input_ids else None
