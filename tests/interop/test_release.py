"""The paper's `layer_<L>.pt`: read as the release writes it, and written as it reads it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memlaw_jax.interop import from_release, to_release
from memlaw_jax.models import Base, LoraConfig

from .conftest import Bases
from .lab import LINEAR, MOVED, TOLERANCE, assert_same_effect, logits, make, node, torch_logits, torch_model

Refuses = Callable[..., None]


def test_without_torch_it_is_said_what_to_install(
    qwen3: Base, tmp_path: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    refuses(lambda: to_release(make(qwen3, targets=("mlp",)), tmp_path), "torch", "install")
    refuses(lambda: from_release(tmp_path, qwen3), "torch", "install")


def by_hand(path: Path, *, width: int = 64, rank: int = 3, seed: int = 0, **change: Any) -> tuple[Any, Any]:
    """A file as the release saves one; returns A and B in float32."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    a = torch.nn.Parameter((torch.randn(width, rank, generator=generator) / width**0.5).to(torch.bfloat16))
    b = torch.nn.Parameter((torch.randn(rank, width, generator=generator) / rank**0.5).to(torch.bfloat16))
    content = {
        "lora_A": a, "lora_B": b, "r": rank, "alpha": 2 * rank, "intervention_components": "mlp", "concept_id": 0,
        "dropout": 0.1, "note": "not a number of ours", **change,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return a.detach().float(), b.detach().float()


@pytest.mark.parity
@pytest.mark.usefixtures("quick_compiler")
def test_a_file_of_the_release_does_what_it_did_there(qwen3: Base, tmp_path: Path) -> None:
    """block_output += x·A·B with x the MLP's input, and no alpha."""
    import torch

    a, b = by_hand(tmp_path / "layer_2.pt")
    adapter = from_release(tmp_path / "layer_2.pt", qwen3)
    assert adapter.lora == LoraConfig(rank=3, targets=("mlp",), layers=(2,), alpha=None, init="paper")
    assert adapter.lora.scale == 1.0 and adapter.layers == (2,)
    assert (adapter.model, adapter.model_fingerprint) == (qwen3.name, qwen3.fingerprint)
    np.testing.assert_array_equal(node(adapter, "mlp")["a"][0], a)
    model = torch_model(qwen3.directory)
    before = torch_logits(model)
    with torch.inference_mode():
        model.model.layers[2].mlp.register_forward_hook(lambda _, x, out: out + x[0] @ a @ b)
        want = torch_logits(model)
    assert np.abs(want - before).max() > MOVED
    np.testing.assert_allclose(logits(qwen3, adapter), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parity
def test_a_folder_is_one_adapter_padded_to_its_largest_rank(qwen3: Base, tmp_path: Path) -> None:
    by_hand(tmp_path / "layer_3.pt", rank=2, seed=1)
    _, b = by_hand(tmp_path / "layer_0.pt", rank=5, seed=2)
    (tmp_path / "train.log").write_text("loss")
    adapter = from_release(tmp_path, qwen3)
    assert adapter.lora == LoraConfig(rank=5, targets=("mlp",), layers=(0, 3), init="paper")
    np.testing.assert_array_equal(node(adapter, "mlp")["b"][0], b)
    assert not np.asarray(node(adapter, "mlp")["a"])[1, :, 2:].any()
    files = to_release(adapter, tmp_path / "out")
    assert [file.name for file in files] == ["layer_0.pt", "layer_3.pt"]
    assert from_release(files[1], qwen3).lora.rank == 2  # at its own rank again
    assert_same_effect(from_release(tmp_path / "out", qwen3), adapter)


@pytest.mark.parity
@pytest.mark.parametrize(
    "settings",
    [{}, {"alpha": 6.0, "layers": (0, 2)}, {"init": "rslora", "layers": (1, 2, 3)}, {"init": "peft", "alpha": 3.0}],
)
def test_what_we_write_is_the_releases_form(qwen3: Base, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Our scale goes into B, since the release has none; r and alpha agree, so that a reader with one is right too."""
    import torch

    adapter = make(qwen3, targets=("mlp",), rank=4, **settings)
    files = to_release(adapter, tmp_path)
    assert [file.name for file in files] == [f"layer_{layer}.pt" for layer in adapter.layers]
    content = torch.load(str(files[-1]), weights_only=True)
    assert {key: content[key] for key in ("r", "alpha", "intervention_components", "concept_id")} == {
        "r": 4, "alpha": 4, "intervention_components": "mlp", "concept_id": 0,
    }  # fmt: skip
    assert content["lora_A"].shape == (64, 4) and content["lora_B"].shape == (4, 64)
    assert content["lora_A"].dtype == content["lora_B"].dtype == torch.float32
    np.testing.assert_allclose(content["lora_B"], adapter.lora.scale * node(adapter, "mlp")["b"][-1], rtol=1e-6)
    assert_same_effect(from_release(tmp_path, qwen3), adapter)
    to_release(adapter, tmp_path)  # the same layers may be written again


@pytest.mark.parity
def test_linear_targets_have_no_form_there(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    for targets in (LINEAR, ("mlp", "q_proj")):
        adapter = make(qwen3, targets=targets, layers=(0,))
        refuses(lambda adapter=adapter: to_release(adapter, tmp_path / "out"), "q_proj", "to_peft")
    assert not (tmp_path / "out").exists()


@pytest.mark.parity
def test_layers_of_another_adapter_are_not_mixed_in(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    to_release(make(qwen3, targets=("mlp",), layers=(1,)), tmp_path)
    refuses(lambda: to_release(make(qwen3, targets=("mlp",), layers=(2,)), tmp_path), "layer_1.pt", "another folder")
    refuses(lambda: to_release(make(qwen3, targets=("mlp",)), qwen3.directory), "config.json")
    (tmp_path / "file").write_text("mine")
    refuses(lambda: to_release(make(qwen3, targets=("mlp",)), tmp_path / "file"), tmp_path / "file")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"intervention_components": "self_attn"}, ["self_attn", "mlp"]),
        ({"intervention_components": ["mlp", "self_attn"]}, ["self_attn"]),
        ({"intervention_components": None}, ["lacks", "intervention_components"]),
        ({"lora_A": None, "r": None}, ["lacks", "lora_A, r"]),
        ({"r": 7}, ["r = 7", "[64, 3]"]),
        ({"width": 32}, ["32 wide", "64 wide"]),
        ({"lora_B": 3}, ["lora_B", "no matrix"]),
        ({"lora_B": "half"}, ["lora_B", "no matrix"]),
    ],
)
def test_a_file_that_is_something_else_is_told(
    qwen3: Base, tmp_path: Path, refuses: Refuses, change: dict[str, Any], words: list[str]
) -> None:
    by_hand(tmp_path / "layer_1.pt", **change)
    refuses(lambda: from_release(tmp_path, qwen3), tmp_path / "layer_1.pt", *words)


@pytest.mark.parity
def test_tensors_that_would_be_dropped_are_told(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    import torch

    by_hand(tmp_path / "layer_1.pt", lora_bias=torch.ones(64))
    refuses(lambda: from_release(tmp_path, qwen3), "lora_bias")
    by_hand(tmp_path / "layer_1.pt", lora_A=torch.ones(64, 3, dtype=torch.int32))
    refuses(lambda: from_release(tmp_path, qwen3), "lora_A", "no matrix")
    by_hand(tmp_path / "layer_1.pt", lora_A=torch.ones(3, 64))
    refuses(lambda: from_release(tmp_path, qwen3), "[3, 64]", "do not fit")


@pytest.mark.parity
def test_files_that_say_no_layer_or_a_wrong_one(bases: Bases, qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    by_hand(tmp_path / "layer_4.pt")
    refuses(lambda: from_release(tmp_path, qwen3), "layer_4.pt", "0 to 3")
    by_hand(tmp_path / "other" / "adapter.pt")
    refuses(lambda: from_release(tmp_path / "other" / "adapter.pt", qwen3), "adapter.pt", "layer_<L>.pt")
    refuses(lambda: from_release(tmp_path / "other", qwen3), tmp_path / "other", "no layer_<L>.pt")
    refuses(lambda: from_release(tmp_path / "nowhere", qwen3), tmp_path / "nowhere")
    by_hand(tmp_path / "named" / "layer_x.pt")
    refuses(lambda: from_release(tmp_path / "named", qwen3), "layer_x.pt", "layer_<L>.pt")
    for name in ("layer_1.pt", "layer_01.pt"):
        by_hand(tmp_path / "twice" / name)
    refuses(lambda: from_release(tmp_path / "twice", qwen3), "layer 1 twice")


class Harmful:
    """What an unsafe pickle could do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code in a pickle was run')",)


@pytest.mark.parity
def test_pickles_are_not_run(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    import torch

    by_hand(tmp_path / "layer_1.pt", note=Harmful())
    refuses(lambda: from_release(tmp_path, qwen3), "layer_1.pt", "safely")
    torch.save([1, 2], tmp_path / "layer_1.pt")
    refuses(lambda: from_release(tmp_path, qwen3), "layer_1.pt", "no dictionary")
    by_hand(tmp_path / "layer_1.pt")
    whole = (tmp_path / "layer_1.pt").read_bytes()
    for content in (b"", b"not a pickle", whole[:500]):
        (tmp_path / "layer_1.pt").write_bytes(content)
        refuses(lambda: from_release(tmp_path, qwen3), "layer_1.pt", "torch")
