"""What `to_peft` writes: PEFT's names, shapes and settings, read here as plain files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

import memlaw_jax as ml
from memlaw_jax.models import Adapter, Base

from .conftest import Bases
from .lab import LINEAR, make, node, peft_name, read_peft

Refuses = Callable[..., None]


def silence(adapter: Adapter, target: str, layer: int, start: int) -> None:
    """Zeros in A's columns and B's rows from rank index `start` on."""
    index = adapter.layers.index(layer)
    node(adapter, target)["a"][index, :, start:] = 0
    node(adapter, target)["b"][index, start:] = 0


def test_tensors_have_pefts_names_and_layout(qwen3: Base, tmp_path: Path) -> None:
    adapter = make(qwen3, targets=("q_proj", "down_proj"), layers=(0, 2), rank=3)
    assert ml.to_peft(adapter, qwen3, tmp_path / "deep" / "out") == tmp_path / "deep" / "out"
    path = tmp_path / "deep" / "out" / "adapter_model.safetensors"
    _, tensors = read_peft(path.parent)
    assert set(tensors) == {
        f"base_model.model.{peft_name(layer, target)}.lora_{part}.weight"
        for layer in (0, 2)
        for target in ("q_proj", "down_proj")
        for part in "AB"
    }
    q_proj = "base_model.model.model.layers.2.self_attn.q_proj"
    np.testing.assert_array_equal(tensors[f"{q_proj}.lora_A.weight"], node(adapter, "q_proj")["a"][1].T)
    np.testing.assert_array_equal(tensors[f"{q_proj}.lora_B.weight"], node(adapter, "q_proj")["b"][1].T)
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file that does not say so


def test_one_rank_everywhere_gives_the_plain_configuration(qwen3: Base, tmp_path: Path) -> None:
    """What vLLM reads: r, lora_alpha and names of linear layers, no patterns."""
    ml.to_peft(make(qwen3, targets=LINEAR, rank=3, alpha=12.0, init="peft"), qwen3, tmp_path)
    config, _ = read_peft(tmp_path)
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (3, 12, False)
    assert config["target_modules"] == list(LINEAR)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["layers_to_transform"] is config["layers_pattern"] is None
    assert config["base_model_name_or_path"] == qwen3.name
    assert config["bias"] == "none" and config["use_dora"] is config["fan_in_fan_out"] is False


@pytest.mark.parametrize(
    ("settings", "alpha", "rslora"),
    [
        ({"init": "paper"}, 4, False),  # no scaling: alpha/r is 1
        ({"init": "paper", "alpha": 6.0}, 6, False),
        ({"init": "peft"}, 8, False),
        ({"init": "peft", "alpha": 0.5}, 0.5, False),
        ({"init": "rslora"}, 8, True),
        ({"init": "rslora", "alpha": 3.0}, 3, True),
    ],
)
def test_scales_become_alphas(qwen3: Base, tmp_path: Path, settings: dict, alpha: float, rslora: bool) -> None:
    adapter = make(qwen3, targets=("v_proj",), rank=4, **settings)
    ml.to_peft(adapter, qwen3, tmp_path)
    config, _ = read_peft(tmp_path)
    assert (config["lora_alpha"], config["use_rslora"]) == (alpha, rslora)
    assert config["lora_alpha"] / (2 if rslora else 4) == adapter.lora.scale


def test_some_layers_are_named_by_number(qwen3: Base, tmp_path: Path) -> None:
    ml.to_peft(make(qwen3, targets=("q_proj",), layers=(3, 1)), qwen3, tmp_path)
    config, _ = read_peft(tmp_path)
    assert config["layers_to_transform"] == [1, 3] and config["layers_pattern"] == "layers"


def test_padded_modules_are_written_at_their_own_rank(qwen3: Base, tmp_path: Path) -> None:
    """A whole target has one entry, a target of several ranks one a layer; every scale stays what it was."""
    adapter = make(qwen3, targets=("q_proj", "v_proj", "o_proj"), rank=4, alpha=6.0)
    for layer in range(4):
        silence(adapter, "v_proj", layer, 2)
    silence(adapter, "q_proj", 1, 3)
    silence(adapter, "q_proj", 2, 1)
    ml.to_peft(adapter, qwen3, tmp_path)
    config, tensors = read_peft(tmp_path)
    assert (config["r"], config["lora_alpha"]) == (4, 6)
    assert config["rank_pattern"] == {"v_proj": 2, "layers.1.self_attn.q_proj": 3, "layers.2.self_attn.q_proj": 1}
    assert config["alpha_pattern"] == {"v_proj": 3, "layers.1.self_attn.q_proj": 4.5, "layers.2.self_attn.q_proj": 1.5}
    assert tensors["base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"].shape == (1, 64)
    assert tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"].shape == (48, 2)


def test_with_rslora_a_padded_module_keeps_its_scale(qwen3: Base, tmp_path: Path) -> None:
    adapter = make(qwen3, targets=("q_proj",), layers=(0, 1), rank=4, alpha=6.0, init="rslora")
    silence(adapter, "q_proj", 1, 1)
    ml.to_peft(adapter, qwen3, tmp_path)
    config, _ = read_peft(tmp_path)
    assert config["rank_pattern"] == {"layers.1.self_attn.q_proj": 1}
    assert config["alpha_pattern"]["layers.1.self_attn.q_proj"] / 1**0.5 == config["lora_alpha"] / 4**0.5 == 3


def test_zeros_within_the_rank_stay(qwen3: Base, tmp_path: Path) -> None:
    """A fresh adapter has B = 0 and is no padding; nor is a zero column of A alone, or one in the middle."""
    adapter = make(qwen3, targets=("q_proj",), layers=(0,), rank=4)
    node(adapter, "q_proj")["b"][:] = 0
    node(adapter, "q_proj")["a"][0, :, 1] = 0
    ml.to_peft(adapter, qwen3, tmp_path)
    assert read_peft(tmp_path)[0]["r"] == 4


def test_modules_without_any_effect_are_left_out(qwen3: Base, tmp_path: Path) -> None:
    adapter = make(qwen3, targets=("q_proj", "k_proj"), layers=(0, 1), rank=2)
    silence(adapter, "q_proj", 1, 0)
    ml.to_peft(adapter, qwen3, tmp_path)
    config, tensors = read_peft(tmp_path)
    names = [peft_name(0, "k_proj"), peft_name(0, "q_proj"), peft_name(1, "k_proj")]
    assert config["target_modules"] == names and config["layers_to_transform"] is None
    assert {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in tensors} == set(names)
    silence(adapter, "k_proj", 1, 0)  # now layer 1 is idle as a whole, and numbers say it again
    ml.to_peft(adapter, qwen3, tmp_path)
    config, _ = read_peft(tmp_path)
    assert config["target_modules"] == ["q_proj", "k_proj"] and config["layers_to_transform"] == [0]


def test_an_adapter_of_zeros_is_written_whole(qwen3: Base, tmp_path: Path) -> None:
    adapter = make(qwen3, targets=("q_proj",), rank=2)
    ml.to_peft(dataclasses.replace(adapter, weights=jax.tree.map(np.zeros_like, adapter.weights)), qwen3, tmp_path)
    config, tensors = read_peft(tmp_path)
    assert config["r"] == 2 and len(tensors) == 8


def test_the_embedded_model_has_no_name_elsewhere(qwen3: Base, tmp_path: Path) -> None:
    adapter = dataclasses.replace(make(qwen3, targets=("q_proj",)), model="embedded")
    ml.to_peft(adapter, None, tmp_path)
    assert read_peft(tmp_path)[0]["base_model_name_or_path"] is None


@pytest.mark.parametrize("targets", [("mlp",), ("mlp", "q_proj")])
def test_a_bypass_is_refused_with_what_to_use(
    qwen3: Base, tmp_path: Path, refuses: Refuses, targets: tuple[str, ...]
) -> None:
    adapter = make(qwen3, targets=targets, layers=(1,))
    refuses(lambda: ml.to_peft(adapter, qwen3, tmp_path / "out"), "mlp", "torch_hook", "--format torch")
    assert not (tmp_path / "out").exists()


def test_another_models_adapter_is_refused(bases: Bases, qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    adapter = make(qwen3, targets=("q_proj",))
    with pytest.warns(UserWarning, match="other weights"):
        refuses(lambda: ml.to_peft(adapter, bases("qwen2"), tmp_path / "out"), "layers", "0, 1, 2, 3")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_what_their_configuration_says_are_refused(
    qwen3: Base, tmp_path: Path, refuses: Refuses
) -> None:
    adapter = make(qwen3, targets=("q_proj",), rank=3)
    for lora in (ml.LoraConfig(targets=("q_proj", "k_proj"), rank=3), ml.LoraConfig(targets=("q_proj",), rank=2)):
        refuses(lambda lora=lora: ml.to_peft(dataclasses.replace(adapter, lora=lora), None, tmp_path / "out"), "_proj")
    assert not (tmp_path / "out").exists()


def test_no_adapter_goes_into_a_models_folder(qwen3: Base, refuses: Refuses) -> None:
    """transformers would put it on top of that model from then on."""
    adapter = make(qwen3, targets=("q_proj",))
    refuses(lambda: ml.to_peft(adapter, qwen3, qwen3.directory), qwen3.directory, "config.json")
    assert not (qwen3.directory / "adapter_config.json").exists()


def test_a_folder_that_cannot_be_written_is_told(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "file").write_text("mine")
    adapter = make(qwen3, targets=("q_proj",))
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        refuses(lambda out=out: ml.to_peft(adapter, qwen3, out), out)
    assert (tmp_path / "file").read_text() == "mine"
