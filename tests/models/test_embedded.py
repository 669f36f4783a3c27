"""The embedded base model is what its card says: small, ordinary, and better than xz on text it has not seen."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memlaw_jax as ml

HOME = Path(ml.__file__).parent / "models" / "embedded"


@pytest.fixture(scope="module")
def base():
    return ml.load_base("embedded")


def test_it_keeps_to_its_size(base):
    count = sum(leaf.size for leaf in jax.tree.leaves(base.params))
    assert count == json.loads((HOME / "training.json").read_text())["parameters"]
    assert count <= 8_000_000
    assert (HOME / "model.safetensors").stat().st_size <= 20_000_000
    assert base.config.num_layers == 6
    assert base.config.paper_layer == 4


def test_it_is_loaded_as_any_directory_is(base):
    other = ml.load_base(str(HOME))
    assert other.fingerprint == base.fingerprint
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), other.params, base.params))


def test_it_beats_xz_on_held_out_text(base):
    """Each window of 512 tokens starts without context here, so this is an upper bound of the card's number."""
    text = (HOME / "heldout.txt").read_text(encoding="utf-8")
    start = text.rfind("\n", 0, len(text) // 2) + 1
    ids = np.array(base.tokenizer(text[start : start + 60_000], verbose=False).input_ids)
    windows = ids[: len(ids) // 512 * 512].reshape(-1, 512)[:24]
    scored = base.tokenizer.decode(windows.ravel().tolist()).encode()
    nats = 0.0
    for window in windows:
        logits = jax.nn.log_softmax(base.logits(window[None])[0, :-1])
        nats -= float(jnp.take_along_axis(logits, jnp.asarray(window[1:, None]), axis=-1).sum())
    nats += len(windows) * np.log(base.config.vocab_size)  # the windows' first tokens, at the uniform price
    ours, xz = nats / np.log(2) / len(scored), 8 * len(lzma.compress(scored, preset=9)) / len(scored)
    assert ours < 0.8 * xz


def test_a_phone_number_has_ten_tokens_and_text_comes_back(base):
    assert len(base.tokenizer("9100672710").input_ids) == 10
    text = "def f(x):\n\treturn 'naïve ☃'  # 42\n"
    assert base.tokenizer.decode(base.tokenizer(text).input_ids) == text
