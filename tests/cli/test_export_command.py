"""`memlaw export`: every format from the command line, and mistakes in one sentence."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from models import tiny
from models.forward import random_adapter

import memlaw_jax as ml
from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.models.lora import PATHS

from .conftest import Memlaw
from .test_mistakes import assert_told

pytestmark = pytest.mark.usefixtures("quick_compiler")

LINEAR = tuple(target for target in PATHS if target != "mlp")


def save(base: Base, directory: Path, **settings: Any) -> Adapter:
    """An adapter folder as `memlaw remember` would leave it."""
    lora = LoraConfig(**settings)
    adapter = Adapter(
        lora=lora, layers=lora.adapted_layers(base.config), weights=random_adapter(base.config, lora, 1),
        model=base.name, model_fingerprint=base.fingerprint,
    )  # fmt: skip
    adapter.save(directory)
    return adapter


@pytest.fixture
def linear(base: Base, tmp_path: Path) -> Path:
    """An adapter of linear layers in two blocks."""
    save(base, tmp_path / "linear", targets=LINEAR, rank=3, layers=(0, 2), alpha=2.0)
    return tmp_path / "linear"


@pytest.fixture
def bypass(base: Base, tmp_path: Path) -> Path:
    """The paper's bypass at its usual depth."""
    save(base, tmp_path / "bypass", rank=3, alpha=6.0)
    return tmp_path / "bypass"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a base model's weights fails the test."""
    import memlaw_jax.models.base

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("base weights were read")

    monkeypatch.setattr(memlaw_jax.models.base, "read_params", fail)


def same(one: Adapter, other: Adapter) -> None:
    jax.tree.map(np.testing.assert_array_equal, one.weights, other.weights)
    assert one.lora.scale == other.lora.scale and one.layers == other.layers


@pytest.mark.usefixtures("no_weights")
def test_peft(base: Base, linear: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    out = tmp_path / "peft"
    said = memlaw("export", linear, "--format", "peft", "--out", out)
    assert said.code == 0 and said.err == "", said.err
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert str(out / name) in said.out and (out / name).exists()
    assert "rank 3" in said.out.lower() and "PeftModel.from_pretrained" in said.out
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == base.name
    same(ml.from_peft(out, base), ml.load_adapter(linear))


@pytest.mark.usefixtures("no_weights")
def test_the_models_name_may_be_another_elsewhere(linear: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    """A hub id is written down and not fetched."""
    memlaw("export", linear, "--format", "peft", "--out", tmp_path / "peft", "--model", "somebody/model")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "somebody/model"
    )
    memlaw("export", linear, "--format", "torch", "--out", tmp_path / "torch", "--model", "somebody/model")
    assert ml.load_adapter(tmp_path / "torch").model == "somebody/model"


def test_merged(base: Base, linear: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "notes.md").write_text("mine")
    said = memlaw("export", linear, "--format", "merged", "--out", out)
    assert said.code == 0, said.err
    assert "layers 0, 2" in said.out and "notes.md" not in said.out
    assert str(out / "model.safetensors") in said.out and "AutoModelForCausalLM" in said.out and "float32" in said.out
    tokens = tiny.right_padded()[0]
    merged = ml.load_base(out)
    # a float32 sum in another order is about 1e-6 off at unit scale, and a few blocks multiply that
    np.testing.assert_allclose(merged.logits(tokens), base.logits(tokens, ml.load_adapter(linear)), rtol=0, atol=2e-4)


def test_merged_weights_have_the_dtype_of_the_base_or_the_one_that_is_asked_for(memlaw: Memlaw, tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "short", "qwen2", dtype="bfloat16")
    save(ml.load_base(source), tmp_path / "adapter", targets=("q_proj",))
    for more, dtype in (((), "bfloat16"), (("--dtype", "float16"), "float16")):
        said = memlaw("export", tmp_path / "adapter", "--format", "merged", "--out", tmp_path / "out", *more)
        assert said.code == 0, said.err
        assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype
        weights = (tmp_path / "out" / "model.safetensors").read_bytes()[:5000]
        assert {"bfloat16": b'"BF16"', "float16": b'"F16"'}[dtype] in weights and b'"F32"' not in weights


def test_the_embedded_model_is_merged_in_its_own_dtype(memlaw: Memlaw, tmp_path: Path) -> None:
    base = ml.load_base("embedded")
    save(base, tmp_path / "adapter", targets=("down_proj",), layers=(4,), rank=2)
    said = memlaw("export", tmp_path / "adapter", "--format", "merged", "--out", tmp_path / "out", "--json")
    assert said.code == 0 and said.err == "", said.err
    assert ml.load_base(tmp_path / "out").config == base.config
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (raw["dtype"], raw["eos_token_id"]) == ("bfloat16", 0)
    said = memlaw("export", tmp_path / "adapter", "--format", "peft", "--out", tmp_path / "peft")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"] is None


@pytest.mark.usefixtures("no_weights")
def test_torch(bypass: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    """The adapter and the hook beside it, an exact copy."""
    out = tmp_path / "torch"
    said = memlaw("export", bypass, "--format", "torch", "--out", out)
    assert said.code == 0 and said.err == "", said.err
    names = {"adapter.safetensors", "memlaw_adapter.json", "torch_hook.py"}
    assert {path.name for path in out.iterdir()} == names and all(str(out / name) in said.out for name in names)
    assert "from torch_hook import attach" in said.out and "remove()" in said.out
    source = Path(ml.__file__).parent / "interop" / "torch_hook.py"
    assert (out / "torch_hook.py").read_bytes() == source.read_bytes()
    assert json.loads((out / "memlaw_adapter.json").read_text())["scale"] == 2.0
    same(ml.load_adapter(out), ml.load_adapter(bypass))


@pytest.mark.usefixtures("no_weights")
def test_an_adapter_of_before_gets_its_scale(bypass: Path, memlaw: Memlaw) -> None:
    """Folders of version 0.1 have none; exporting one onto itself mends it."""
    path = bypass / "memlaw_adapter.json"
    meta = json.loads(path.read_text())
    assert meta.pop("scale") == 2.0
    path.write_text(json.dumps(meta))
    assert ml.load_adapter(bypass).lora.scale == 2.0
    assert memlaw("export", bypass, "--format", "torch", "--out", bypass).code == 0
    assert json.loads(path.read_text())["scale"] == 2.0


@pytest.mark.parametrize("scale", [3.0, "2", None, [2.0]])
def test_an_adapter_whose_scale_is_another_is_told(bypass: Path, memlaw: Memlaw, scale: Any, tmp_path: Path) -> None:
    path = bypass / "memlaw_adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scale": scale}))
    assert_told(memlaw("export", bypass, "--format", "torch", "--out", tmp_path / "out"), str(bypass), "scale", "2.0")


@pytest.mark.parity
@pytest.mark.usefixtures("no_weights")
def test_release(base: Base, bypass: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    from memlaw_jax.interop import from_release

    said = memlaw("export", bypass, "--format", "release", "--out", tmp_path / "out")
    assert said.code == 0 and said.err == "", said.err
    assert str(tmp_path / "out" / "layer_2.pt") in said.out
    found = from_release(tmp_path / "out" / "layer_2.pt", base)
    before = ml.load_adapter(bypass)
    np.testing.assert_array_equal(found.weights["mlp"]["b"], 2 * before.weights["mlp"]["b"])


@pytest.mark.parity
def test_an_exported_folder_works_in_a_program_of_its_own(
    base: Base, bypass: Path, memlaw: Memlaw, tmp_path: Path, python: str, child_environment: dict[str, str]
) -> None:
    """As the printed line says, in a process that knows neither this package nor JAX."""
    out = tmp_path / "out"
    memlaw("export", bypass, "--format", "torch", "--out", out)
    tokens = tiny.right_padded()[0][:1]
    script = f"""
import sys
sys.modules["jax"] = sys.modules["memlaw_jax"] = None
import numpy, torch, transformers
from torch_hook import attach
model = transformers.AutoModelForCausalLM.from_pretrained({str(base.directory)!r}, dtype=torch.float32)
handle = attach(model, ".")
with torch.inference_mode():
    numpy.save("logits.npy", model(torch.tensor({tokens.tolist()})).logits.numpy())
"""
    child = subprocess.run([python, "-c", script], cwd=out, env=child_environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    want = base.logits(tokens, ml.load_adapter(bypass))
    np.testing.assert_allclose(np.load(out / "logits.npy"), want, rtol=0, atol=2e-4)


def test_json_is_one_object(linear: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    for form in ("peft", "merged", "torch"):
        said = memlaw("export", linear, "--format", form, "--out", tmp_path / form, "--json")
        assert said.code == 0 and said.err == "" and len(said.out.splitlines()) == 1, said
        found = json.loads(said.out)
        assert (found["format"], found["out"]) == (form, str(tmp_path / form))
        assert {Path(file) for file in found["files"]} == set((tmp_path / form).iterdir())
        assert (found["rank"], found["layers"], found["targets"]) == (3, [0, 2], list(LINEAR))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("form", ["peft", "merged"])
def test_a_bypass_is_refused_before_any_weight_is_read(bypass: Path, memlaw: Memlaw, tmp_path: Path, form: str) -> None:
    said = memlaw("export", bypass, "--format", form, "--out", tmp_path / "out")
    assert_told(said, "mlp", "--format torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("form", ["peft", "merged", "torch"])
def test_the_models_own_folder_is_refused_and_kept(base: Base, linear: Path, memlaw: Memlaw, form: str) -> None:
    before = {path.name: path.read_bytes() for path in Path(base.directory).iterdir()}
    assert_told(memlaw("export", linear, "--format", form, "--out", base.directory), str(base.directory))
    assert {path.name: path.read_bytes() for path in Path(base.directory).iterdir()} == before


@pytest.mark.usefixtures("no_weights")
def test_a_model_that_is_at_hand_is_held_against_the_adapter(
    base: Base, memlaw: Memlaw, tmp_path: Path, linear: Path
) -> None:
    other = tiny.write(tmp_path / "other", "qwen2")
    save(base, tmp_path / "deep", targets=("q_proj",), layers=(3,))
    for form in ("peft", "torch"):
        said = memlaw("export", tmp_path / "deep", "--format", form, "--model", other, "--out", tmp_path / "out")
        assert said.code == 2 and "0 to 2" in said.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
@pytest.mark.parametrize("form", ["peft", "merged", "torch"])
def test_a_folder_that_cannot_be_written_is_told(
    linear: Path, memlaw: Memlaw, tmp_path: Path, out: str, form: str
) -> None:
    (tmp_path / "file").write_text("mine")
    assert_told(memlaw("export", linear, "--format", form, "--out", tmp_path / out, "--json"), str(tmp_path / out))
    assert (tmp_path / "file").read_text() == "mine"


def test_mistakes_are_told(base: Base, linear: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_told(memlaw("export"), "--help")
    assert_told(memlaw("export", linear, "--format", "peft"), "--out")
    assert_told(memlaw("export", linear, "--out", out), "--format")
    assert_told(memlaw("export", linear, "--format", "onnx", "--out", out), "onnx", "peft", "merged")
    assert_told(memlaw("export", tmp_path / "none", "--format", "peft", "--out", out), "none", "memlaw_adapter.json")
    assert_told(memlaw("export", base.directory, "--format", "peft", "--out", out), "memlaw_adapter.json")
    assert_told(memlaw("export", linear, "--format", "peft", "--dtype", "float16", "--out", out), "--dtype", "merged")
    assert_told(memlaw("export", linear, "--format", "merged", "--dtype", "int4", "--out", out), "int4", "bfloat16")
    said = memlaw("export", linear, "--format", "merged", "--model", tmp_path / "gone", "--out", out)
    assert_told(said, str(tmp_path / "gone"))
    assert not out.exists()


def test_an_adapter_without_its_weights_is_told(base: Base, memlaw: Memlaw, tmp_path: Path) -> None:
    adapter = save(base, tmp_path / "whole", targets=("q_proj", "k_proj"), rank=2)
    dataclasses.replace(adapter, weights={"self_attn": {"q_proj": adapter.weights["self_attn"]["q_proj"]}}).save(
        tmp_path / "part"
    )
    said = memlaw("export", tmp_path / "part", "--format", "peft", "--out", tmp_path / "out", "--model", "some/model")
    assert_told(said, "k_proj")


def test_help_has_an_example_and_explains_the_formats(memlaw: Memlaw) -> None:
    said = memlaw("export", "--help")
    assert said.code == 0 and said.err == "" and "  memlaw export" in said.out
    assert all(word in said.out for word in ("example", "--out", "--json", "peft", "merged", "torch", "release"))
    assert "export" in memlaw("--help").out


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("kind", ["peft", "torch"])
def test_a_named_model_that_is_not_there_is_told(linear: Path, memlaw: Memlaw, tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    for model, told in (("nowhere", "nowhere"), (str(tmp_path / "empty"), "config.json")):
        assert_told(memlaw("export", linear, "--format", kind, "--out", tmp_path / "out", "--model", model), told)


@pytest.mark.usefixtures("no_weights")
def test_a_model_that_has_moved_away_is_a_warning(base: Base, memlaw: Memlaw, tmp_path: Path) -> None:
    adapter = save(base, tmp_path / "linear", targets=LINEAR, rank=3)
    dataclasses.replace(adapter, model=str(tmp_path / "gone")).save(tmp_path / "linear")
    said = memlaw("export", tmp_path / "linear", "--format", "peft", "--out", tmp_path / "peft")
    assert said.code == 0 and "gone" in said.err and said.err.count("\n") == 1
