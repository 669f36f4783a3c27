"""What `from_peft` reads: our own files without loss, and PEFT's whatever their ranks, scales and layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import memlaw_jax as ml
from memlaw_jax.models import Base, LoraConfig

from .conftest import Bases
from .lab import LINEAR, MOVED, SOME, TOLERANCE, assert_same_effect, delta, logits, make, node, write_peft
from .test_peft_out import silence

EVERY = [(layer, target) for layer in range(4) for target in ("q_proj", "v_proj")]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"targets": LINEAR, "rank": 3, "init": "peft", "alpha": 5.0}, True),
        ({"targets": LINEAR, "rank": 3, "init": "rslora", "alpha": 5.0}, True),
        ({"targets": ("o_proj", "up_proj"), "layers": (1, 3), "rank": 7, "init": "rslora", "alpha": 0.3}, True),
        ({"targets": ("k_proj",), "layers": (2,), "rank": 1, "init": "peft", "alpha": 1.0}, True),
        ({"targets": LINEAR, "rank": 3}, False),
        ({"targets": LINEAR, "rank": 3, "alpha": 7.0}, False),
        ({"targets": LINEAR, "rank": 3, "init": "rslora"}, False),
    ],
)
def test_what_we_write_comes_back(qwen3: Base, tmp_path: Path, settings: dict[str, Any], kept: bool) -> None:
    """The same weights and scale to the last bit, and the same settings where PEFT has words for them."""
    adapter = make(qwen3, **settings)
    found = ml.from_peft(ml.to_peft(adapter, qwen3, tmp_path), qwen3)
    assert found.lora.scale == adapter.lora.scale and found.layers == adapter.layers
    assert (found.model, found.model_fingerprint) == (qwen3.name, qwen3.fingerprint)
    for target in adapter.lora.targets:
        for part in "ab":
            np.testing.assert_array_equal(node(found, target)[part], node(adapter, target)[part])
    assert (found.lora == adapter.lora) == kept


def test_padding_comes_back_as_padding(qwen3: Base, tmp_path: Path) -> None:
    """Ranks that differ and idle modules, out and in and out again."""
    adapter = make(qwen3, targets=("q_proj", "v_proj"), rank=4, alpha=6.0, init="rslora")
    silence(adapter, "q_proj", 1, 0)
    silence(adapter, "q_proj", 2, 3)
    silence(adapter, "v_proj", 0, 2)
    found = ml.from_peft(ml.to_peft(adapter, qwen3, tmp_path / "one"), qwen3)
    assert found.lora == LoraConfig(targets=("q_proj", "v_proj"), rank=4, init="peft", alpha=4.0)
    assert found.lora.scale == 1.0
    assert_same_effect(found, adapter)
    again = ml.from_peft(ml.to_peft(found, qwen3, tmp_path / "two"), qwen3)
    assert again.lora == found.lora
    for target in found.lora.targets:
        for part in "ab":
            np.testing.assert_array_equal(node(again, target)[part], node(found, target)[part])
            assert not np.asarray(node(found, "q_proj")[part])[1].any()


def test_another_rank_everywhere_is_no_pattern(qwen3: Base, tmp_path: Path) -> None:
    """Padding alike in every module is gone: rank 4 of which 2 are used is rank 2 of the same scale."""
    adapter = make(qwen3, targets=("q_proj",), layers=(0, 1), rank=4, alpha=6.0)
    for layer in (0, 1):
        silence(adapter, "q_proj", layer, 2)
    found = ml.from_peft(ml.to_peft(adapter, qwen3, tmp_path), qwen3)
    assert (found.lora.rank, found.lora.alpha) == (2, 3.0)
    assert_same_effect(found, adapter)


def scaled(pairs: dict, scale: Any) -> dict[tuple[int, str], np.ndarray]:
    return {key: (scale(*key) if callable(scale) else scale) * (a.astype(float) @ b) for key, (a, b) in pairs.items()}


def assert_is(found: Any, want: dict[tuple[int, str], np.ndarray]) -> None:
    effect = delta(found)
    for key, product in effect.items():
        np.testing.assert_allclose(product, want.get(key, 0 * product), rtol=0, atol=1e-6, err_msg=str(key))
    assert set(want) <= set(effect)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_is_read_exactly(qwen3: Base, tmp_path: Path, dtype: Any) -> None:
    pairs = write_peft(tmp_path, qwen3, EVERY, dtype=dtype)
    found = ml.from_peft(tmp_path, qwen3)
    assert found.lora == LoraConfig(targets=("q_proj", "v_proj"), rank=3, init="peft", alpha=6.0)
    for (layer, target), (a, b) in pairs.items():
        np.testing.assert_array_equal(node(found, target)["a"][layer], a)
        np.testing.assert_array_equal(node(found, target)["b"][layer], b)


NAMED = {
    "by a regular expression": {"target_modules": r".*self_attn\.(q|v)_proj"},
    "by ends": {"target_modules": ["self_attn.q_proj", "v_proj"]},
    "one by one": {"target_modules": [f"model.layers.{layer}.self_attn.{x}_proj" for layer in range(4) for x in "qv"]},
    "by what is left out": {
        "target_modules": ["q_proj", "k_proj", "v_proj"],
        "exclude_modules": ["k_proj"],
    },
    "not at all": {"target_modules": None},
    "with names of other models": {"target_modules": ["q_proj", "v_proj", "query_key_value", "c_attn"]},
}


@pytest.mark.parametrize("how", NAMED)
def test_modules_are_named_in_any_way_that_peft_knows(qwen3: Base, tmp_path: Path, how: str) -> None:
    pairs = write_peft(tmp_path, qwen3, EVERY, **NAMED[how])
    assert_is(ml.from_peft(tmp_path, qwen3), scaled(pairs, 2.0))


def test_all_linear_layers_are_named_by_one_word(qwen3: Base, tmp_path: Path) -> None:
    every = [(layer, target) for layer in range(4) for target in LINEAR]
    pairs = write_peft(tmp_path, qwen3, every, target_modules="all-linear")
    assert_is(ml.from_peft(tmp_path, qwen3), scaled(pairs, 2.0))


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [1, 3]},
        {"layers_to_transform": [3, 1], "layers_pattern": "layers"},
        {"layers_to_transform": [1, 3], "layers_pattern": ["h", "layers"]},
        {"target_modules": r"model\.layers\.(1|3)\..*\.(q|v)_proj"},
        {"exclude_modules": r".*\.(0|2)\..*"},
    ],
)
def test_some_layers(qwen3: Base, tmp_path: Path, config: dict[str, Any]) -> None:
    pairs = write_peft(tmp_path, qwen3, [key for key in EVERY if key[0] in (1, 3)], **config)
    found = ml.from_peft(tmp_path, qwen3)
    assert found.layers == found.lora.layers == (1, 3)
    assert_is(found, scaled(pairs, 2.0))


def test_one_layer_may_be_a_bare_number(qwen3: Base, tmp_path: Path) -> None:
    write_peft(tmp_path, qwen3, [(0, "q_proj")], layers_to_transform=0)
    assert ml.from_peft(tmp_path, qwen3).layers == (0,)


def test_targets_may_differ_from_layer_to_layer(qwen3: Base, tmp_path: Path) -> None:
    modules = [(0, "q_proj"), (2, "q_proj"), (2, "down_proj"), (3, "v_proj")]
    pairs = write_peft(
        tmp_path, qwen3, modules,
        target_modules=r".*(0\.self_attn\.q_proj|2\.self_attn\.q_proj|2\.mlp\.down_proj|3\.self_attn\.v_proj)",
    )  # fmt: skip
    found = ml.from_peft(tmp_path, qwen3)
    assert found.layers == (0, 2, 3) and found.lora.targets == ("q_proj", "v_proj", "down_proj")
    assert_is(found, scaled(pairs, 2.0))


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_of_rank_and_alpha(qwen3: Base, tmp_path: Path, rslora: bool) -> None:
    """Each module has its own alpha/r or alpha/√r; the first key of a pattern that fits is the one that counts."""
    ranks = {key: 5 if key == (1, "q_proj") else 2 if key[1] == "v_proj" else 3 for key in EVERY}
    pairs = write_peft(
        tmp_path, qwen3, EVERY, ranks=ranks, use_rslora=rslora,
        rank_pattern={"layers.1.self_attn.q_proj": 5, "self_attn.v_proj": 2, "model.layers.2.self_attn.v_proj": 9},
        alpha_pattern={r"layers\.[23]\..*": 10, "v_proj": 4, "k_proj": 77},
    )  # fmt: skip

    def scale(layer: int, target: str) -> float:
        alpha = 10 if layer in (2, 3) else 4 if target == "v_proj" else 6
        return alpha / (ranks[layer, target] ** 0.5 if rslora else ranks[layer, target])

    found = ml.from_peft(tmp_path, qwen3)
    assert found.lora == LoraConfig(targets=("q_proj", "v_proj"), rank=5, init="peft", alpha=5.0)
    assert_is(found, scaled(pairs, scale))


def test_patterns_that_say_the_same_everywhere_are_plain(qwen3: Base, tmp_path: Path) -> None:
    write_peft(tmp_path, qwen3, EVERY, r=8, rank_pattern={"q_proj": 3, "v_proj": 3}, alpha_pattern={".*": 12})
    assert ml.from_peft(tmp_path, qwen3).lora == LoraConfig(
        targets=("q_proj", "v_proj"), rank=3, init="peft", alpha=12.0
    )


@pytest.mark.parametrize("alpha", [0, -6])
def test_an_alpha_that_ours_cannot_be_goes_into_b(qwen3: Base, tmp_path: Path, alpha: int) -> None:
    pairs = write_peft(tmp_path, qwen3, EVERY, lora_alpha=alpha)
    found = ml.from_peft(tmp_path, qwen3)
    assert found.lora.scale == 1.0
    assert_is(found, scaled(pairs, alpha / 3))


def test_keys_that_change_no_number_are_passed_over(qwen3: Base, tmp_path: Path) -> None:
    write_peft(
        tmp_path, qwen3, EVERY, base_model_name_or_path="somebody/else", lora_dropout=0.1, task_type="CAUSAL_LM",
        inference_mode=True, peft_version="9.9.9", init_lora_weights="gaussian", megatron_core="megatron.core",
        auto_mapping={"parent_library": "x"}, revision="main", a_key_of_the_future=None, another=False,
    )  # fmt: skip
    assert ml.from_peft(tmp_path, qwen3).model == qwen3.name


def test_what_was_read_runs_and_can_be_saved(bases: Bases, tmp_path: Path, quick_compiler: None) -> None:
    """The adapter's logits before PEFT, after PEFT, and after our own folder."""
    base = bases("llama3-old-schema")
    adapter = make(base, **SOME)
    read = ml.from_peft(ml.to_peft(adapter, base, tmp_path / "peft"), base)
    want = logits(base, adapter)
    assert np.abs(want - logits(base)).max() > MOVED
    np.testing.assert_allclose(logits(base, read), want, rtol=0, atol=TOLERANCE)
    read.save(tmp_path / "own")
    loaded = ml.load_adapter(tmp_path / "own")
    assert dataclasses.replace(loaded, weights={}) == dataclasses.replace(read, weights={})
    np.testing.assert_array_equal(logits(base, loaded), logits(base, read))
