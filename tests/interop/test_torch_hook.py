"""`torch_hook.attach`: our adapters in PyTorch, the paper's bypass among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from memlaw_jax.models import Base

from .conftest import Bases
from .lab import MOVED, SOME, TOKENS, TOLERANCE, logits, make, torch_logits, torch_model

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("quick_compiler"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

CASES: dict[str, dict[str, Any]] = {
    "the paper's": {"targets": ("mlp",), "rank": 2},
    "bypasses": {"targets": ("mlp",), "rank": 3, "layers": (0, 2), "alpha": 2.0},
    "linear layers": SOME | {"alpha": 1.0, "init": "rslora"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["qwen3", "qwen2"])
def test_hooks_give_our_logits_and_come_off(bases: Bases, tmp_path: Path, name: str, case: str) -> None:
    from memlaw_jax.interop.torch_hook import attach

    base = bases(name)
    adapter = make(base, **CASES[case])
    model = torch_model(base.directory)
    before = torch_logits(model)
    handle = attach(model, adapter.save(tmp_path))
    with_adapter = torch_logits(model)
    np.testing.assert_allclose(with_adapter, logits(base, adapter), rtol=0, atol=TOLERANCE)
    assert np.abs(with_adapter - before).max() > MOVED
    handle.remove()
    np.testing.assert_array_equal(torch_logits(model), before)
    handle.remove()  # a second time does nothing


def test_a_copied_file_works_alone(qwen3: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memlaw_jax.interop import torch_hook

    adapter = make(qwen3, targets=("mlp",), rank=2)
    adapter.save(tmp_path)
    shutil.copy(torch_hook.__file__, tmp_path / "carried_hook.py")
    monkeypatch.syspath_prepend(tmp_path)
    import carried_hook  # type: ignore[import-not-found]

    model = torch_model(qwen3.directory)
    with carried_hook.attach(model, str(tmp_path)):
        np.testing.assert_allclose(torch_logits(model), logits(qwen3, adapter), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(torch_logits(model), logits(qwen3), rtol=0, atol=TOLERANCE)


def test_wrapped_models_are_found_their_way_into(qwen3: Base, tmp_path: Path) -> None:
    """A module around a module, PEFT around a model, the decoder without its head, and layers called by keyword."""
    import peft
    import torch

    from memlaw_jax.interop.torch_hook import attach

    class Wrapper(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module):
            super().__init__()
            self.module = inner

        def forward(self, *args: Any) -> Any:
            return self.module(*args)

    adapter = make(qwen3, targets=("mlp", "q_proj"), layers=(1,), rank=2)
    adapter.save(tmp_path)
    want = logits(qwen3, adapter)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])  # B is zero: no effect of its own
    for wrapped in (
        Wrapper(Wrapper(torch_model(qwen3.directory))),
        peft.get_peft_model(torch_model(qwen3.directory), config).eval(),
    ):
        attach(wrapped, tmp_path)
        np.testing.assert_allclose(torch_logits(wrapped), want, rtol=0, atol=TOLERANCE)
    bare = torch_model(qwen3.directory)
    attach(bare.model, tmp_path)
    np.testing.assert_allclose(torch_logits(bare), want, rtol=0, atol=TOLERANCE)

    linear = bare.model.layers[1].self_attn.q_proj
    x = torch.ones(1, 64)
    with torch.inference_mode():
        torch.testing.assert_close(linear(input=x), linear(x))


def test_the_hook_follows_the_models_dtype(qwen3: Base, tmp_path: Path) -> None:
    """Attached in float32, cast to bfloat16, cast back: the float32 numbers are not lost on the way.

    bfloat16 logits are about 0.01 off at unit scale (tests/models, 12 roundings of 2⁻⁹ a block).
    """
    import torch

    from memlaw_jax.interop.torch_hook import attach

    adapter = make(qwen3, targets=("mlp",), rank=2)
    model = torch_model(qwen3.directory)
    attach(model, adapter.save(tmp_path))
    before = torch_logits(model)
    short = torch_model(qwen3.directory, "bfloat16")
    attach(short, tmp_path)
    assert 0 < np.abs(torch_logits(short) - before).max() < 0.2  # in inference mode
    short(torch.tensor(TOKENS).long()).logits.sum().backward()  # and in training
    double = model.to(torch.float64)
    np.testing.assert_allclose(torch_logits(double), before, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(torch_logits(double.to(torch.float32)), before)


def rewrite(folder: Path, **change: Any) -> None:
    path = folder / "memlaw_adapter.json"
    meta = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


def no_meta(folder: Path) -> None:
    (folder / "memlaw_adapter.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "adapter.safetensors").unlink()


def cut_meta(folder: Path) -> None:
    (folder / "memlaw_adapter.json").write_text("{")


def cut_weights(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def no_scale(folder: Path) -> None:
    rewrite(folder, scale=None)


def deep_layer(folder: Path) -> None:
    rewrite(folder, layers=[1, 4])


def one_layer(folder: Path) -> None:
    rewrite(folder, layers=[1])


def change_weights(folder: Path, change: Any) -> None:
    path = folder / "adapter.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in change(load_file(path)).items()}, path)


def wide(folder: Path) -> None:
    change_weights(folder, lambda held: held | {"mlp.a": held["mlp.a"][:, :60]})


def only_a(folder: Path) -> None:
    change_weights(folder, lambda held: {key: value for key, value in held.items() if key != "mlp.b"})


def strange(folder: Path) -> None:
    change_weights(folder, lambda held: held | {f"self_attn.r_proj.{part}": held[f"mlp.{part}"] for part in "ab"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_meta, ["no memlaw_jax adapter"]),
        (no_weights, ["no memlaw_jax adapter"]),
        (cut_meta, ["corrupt"]),
        (cut_weights, ["corrupt"]),
        (no_scale, ["scale", "save it again"]),
        (deep_layer, ["layer 4", "0 to 3"]),
        (one_layer, ["mlp", "1 layers"]),
        (wide, ["mlp of layer 1", "60", "64"]),
        (only_a, ["mlp", "only one"]),
        (strange, ["layer 1", "self_attn.r_proj"]),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_and_leaves_no_hook(
    qwen3: Base, tmp_path: Path, damage: Any, words: list[str]
) -> None:
    from memlaw_jax.interop.torch_hook import attach

    make(qwen3, targets=("mlp", "q_proj"), layers=(1, 2), rank=2).save(tmp_path)
    damage(tmp_path)
    model = torch_model(qwen3.directory)
    with pytest.raises(ValueError) as error:
        attach(model, tmp_path)
    text = str(error.value)
    assert len(text.splitlines()) == 1 and all(word in text for word in words), text
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_decoder_blocks_is_told(qwen3: Base, tmp_path: Path) -> None:
    import torch

    from memlaw_jax.interop.torch_hook import attach

    folder = make(qwen3, targets=("mlp",)).save(tmp_path)
    with pytest.raises(ValueError, match="Linear has no decoder blocks"):
        attach(torch.nn.Linear(2, 2), folder)
    twice = torch.nn.ModuleList([torch_model(qwen3.directory) for _ in range(2)])
    with pytest.raises(ValueError, match=r"several stacks.*0.model.layers, 1.model.layers"):
        attach(twice, folder)
