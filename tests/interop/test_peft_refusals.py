"""What our adapters cannot represent is refused in one sentence that names it, and so is every damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import memlaw_jax as ml
from memlaw_jax.models import Base

from .conftest import Bases
from .lab import make, peft_name, read_peft, write_peft

Refuses = Callable[..., None]
EVERY = [(layer, target) for layer in range(4) for target in ("q_proj", "v_proj")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "ADALORA"),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("use_dora", True),
        ("lora_bias", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("modules_to_save", ["embed_tokens", "lm_head"]),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "something_new"),
        ("alora_invocation_tokens", [1, 2]),
        ("layer_replication", [[0, 4], [2, 4]]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("trainable_token_indices", [7]),
        ("trainable_token_indices", {"embed_tokens": [7]}),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 0.1}),
        ("arrow_config", {"top_k": 3}),
        ("monteclora_config", {"num_samples": 8}),
        ("velora_config", {"num_groups": 4}),
        ("megatron_config", {"hidden": 1}),
        ("a_key_of_the_future", 3),
        ("r", 0),
        ("r", -1),
        ("r", 3.0),
        ("r", True),
        ("r", "3"),
        ("lora_alpha", "16"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", None),
        ("use_rslora", "yes"),
        ("rank_pattern", [3]),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {"q_proj": "2"}),
        ("rank_pattern", {"q_(proj": 3}),
        ("alpha_pattern", {"q_proj": None}),
        ("alpha_pattern", {"*": 3}),
        ("target_modules", 3),
        ("target_modules", ["q_proj", 3]),
        ("target_modules", ".*(q_proj"),
        ("exclude_modules", "[a"),
        ("layers_to_transform", "all"),
        ("layers_to_transform", [0, 4]),
        ("layers_to_transform", [-1]),
        ("layers_to_transform", [0.5]),
    ],
)
def test_settings_that_we_cannot_represent(qwen3: Base, tmp_path: Path, refuses: Refuses, key: str, value: Any) -> None:
    write_peft(tmp_path, qwen3, EVERY, **{key: value})
    named = {"rank_pattern": "pattern", "alpha_pattern": "pattern"}.get(key, key)
    refuses(lambda: ml.from_peft(tmp_path, qwen3), named, tmp_path)


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["v_proj", "embed_tokens"], ".*(q_proj|lm_head)"])
def test_embeddings_and_heads(qwen3: Base, tmp_path: Path, refuses: Refuses, targets: Any) -> None:
    write_peft(tmp_path, qwen3, EVERY, target_modules=targets)
    refuses(lambda: ml.from_peft(tmp_path, qwen3), "lm_head" if "lm_head" in str(targets) else "embed_tokens")


A0 = f"base_model.model.{peft_name(0, 'q_proj')}.lora_A.weight"
B0 = A0.replace("lora_A", "lora_B")


def drop(tensors: dict) -> None:
    del tensors[A0]


def drop_module(tensors: dict) -> None:
    del tensors[A0], tensors[B0]


def drop_all(tensors: dict) -> None:
    tensors.clear()


def transpose(tensors: dict) -> None:
    tensors[A0] = np.ascontiguousarray(tensors[A0].T)


def flatten(tensors: dict) -> None:
    tensors[B0] = tensors[B0].reshape(-1)


def shrink(tensors: dict) -> None:
    tensors[A0] = tensors[A0][:2].copy()


def whole_numbers(tensors: dict) -> None:
    tensors[A0] = tensors[A0].astype(np.int32)


def doubles(tensors: dict) -> None:
    tensors[A0] = tensors[A0].astype(np.float64)


def unnamed(tensors: dict) -> None:
    tensors |= {name.replace("q_proj", "k_proj"): tensors[name] for name in (A0, B0)}


def beyond(tensors: dict) -> None:
    tensors |= {name.replace("layers.0", "layers.4"): tensors[name] for name in (A0, B0)}


def elsewhere(tensors: dict) -> None:
    tensors |= {name.replace("self_attn", "mlp"): tensors[name] for name in (A0, B0)}


def magnitude(tensors: dict) -> None:
    tensors[A0.replace("lora_A.weight", "lora_magnitude_vector")] = np.ones(96, np.float32)


def bias(tensors: dict) -> None:
    tensors[B0.replace("weight", "bias")] = np.ones(96, np.float32)


def embedding(tensors: dict) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = np.ones((3, 97), np.float32)


def head(tensors: dict) -> None:
    tensors["base_model.model.lm_head.weight"] = np.ones((97, 64), np.float32)


def other_wrapper(tensors: dict) -> None:
    tensors |= {name.replace("base_model.model.model", "base_model.model"): tensors.pop(name) for name in list(tensors)}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop, [peft_name(0, "q_proj"), "lora_A", "lora_B"]),
        (drop_module, ["lacks", peft_name(0, "q_proj")]),
        (drop_all, ["no tensors"]),
        (transpose, [peft_name(0, "q_proj"), "(64, 3)", "(3, 64)"]),
        (flatten, [peft_name(0, "q_proj"), "(288,)", "(96, 3)"]),
        (shrink, [peft_name(0, "q_proj"), "(2, 64)", "(3, 64)"]),
        (whole_numbers, [A0, "I32", "BF16"]),
        (doubles, [A0, "F64"]),
        (unnamed, [peft_name(0, "k_proj"), "not name"]),
        (beyond, ["layers.4.", "0 to 3"]),
        (elsewhere, ["mlp.q_proj"]),
        (magnitude, ["lora_magnitude_vector"]),
        (bias, ["lora_B.bias"]),
        (embedding, ["embed_tokens"]),
        (head, ["lm_head"]),
        (other_wrapper, ["base_model.model.layers.0."]),
    ],
)
def test_tensors_that_do_not_fit(
    qwen3: Base, tmp_path: Path, refuses: Refuses, damage: Callable[[dict], None], words: list[str]
) -> None:
    write_peft(tmp_path, qwen3, EVERY)
    _, tensors = read_peft(tmp_path)
    damage(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    refuses(lambda: ml.from_peft(tmp_path, qwen3), *words)


def test_an_adapter_of_another_architecture(bases: Bases, qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    """Fewer layers, and heads of another width."""
    write_peft(tmp_path / "deep", qwen3, EVERY)
    refuses(lambda: ml.from_peft(tmp_path / "deep", bases("qwen2")), "layers.3.", "0 to 2")
    write_peft(tmp_path / "wide", qwen3, [(0, "q_proj")], layers_to_transform=[0])
    refuses(lambda: ml.from_peft(tmp_path / "wide", bases("qwen2")), peft_name(0, "q_proj"), "(96, 3)", "(64, 3)")


def test_a_rank_above_a_modules_width(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    write_peft(tmp_path, qwen3, [(0, "k_proj")], ranks={(0, "k_proj"): 49}, r=49, layers_to_transform=[0])
    refuses(lambda: ml.from_peft(tmp_path, qwen3), "49", "48", "k_proj")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"r": 3', '"LORA"', "\xff"])
def test_a_corrupt_configuration(qwen3: Base, tmp_path: Path, refuses: Refuses, content: str) -> None:
    write_peft(tmp_path, qwen3, EVERY)
    (tmp_path / "adapter_config.json").write_bytes(content.encode("latin-1"))
    refuses(lambda: ml.from_peft(tmp_path, qwen3), "adapter_config.json")


@pytest.mark.parametrize("keep", [0, 5, 100, 4000])
def test_weights_cut_short(qwen3: Base, tmp_path: Path, refuses: Refuses, keep: int) -> None:
    write_peft(tmp_path, qwen3, EVERY)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refuses(lambda: ml.from_peft(tmp_path, qwen3), path, "corrupt")


def test_folders_that_are_no_peft_adapters(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file", "nowhere"):
        refuses(lambda name=name: ml.from_peft(tmp_path / name, qwen3), tmp_path / name, "adapter_config.json")
    refuses(lambda: ml.from_peft(qwen3.directory, qwen3), "adapter_config.json")
    own = make(qwen3, targets=("q_proj",)).save(tmp_path / "own")
    refuses(lambda: ml.from_peft(own, qwen3), own, "load_adapter")


def test_pickled_weights_are_not_read(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    write_peft(tmp_path, qwen3, EVERY)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    refuses(lambda: ml.from_peft(tmp_path, qwen3), "adapter_model.bin", "pickle", "safe_serialization")
    (tmp_path / "adapter_model.bin").unlink()
    refuses(lambda: ml.from_peft(tmp_path, qwen3), "adapter_model.safetensors")


def test_a_configuration_that_names_nothing_here(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    write_peft(tmp_path, qwen3, EVERY, target_modules=["c_attn"])
    refuses(lambda: ml.from_peft(tmp_path, qwen3), peft_name(0, "q_proj"), "not name")


def test_the_files_written_by_hand_are_sound(qwen3: Base, tmp_path: Path) -> None:
    """What the refusals above start from is read."""
    write_peft(tmp_path, qwen3, EVERY)
    assert ml.from_peft(tmp_path, qwen3).lora.rank == 3
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
