"""A merged model gives an adapter's logits, is written a shard at a time, and never over something else."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from models import tiny
from safetensors.numpy import load_file

import memlaw_jax as ml
from memlaw_jax.interop import write_merged
from memlaw_jax.models import Adapter, Base
from memlaw_jax.models.checkpoint import read_config, read_params, write_checkpoint

from .conftest import Bases
from .lab import MOVED, SOME, TOLERANCE, logits, make, node

Refuses = Callable[..., None]
pytestmark = pytest.mark.usefixtures("quick_compiler")


def read(directory: Path, dtype: Any = jnp.float32) -> Any:
    path = epath.Path(directory)
    return read_params(path, read_config(path), dtype)


def assert_same_tree(found: Any, want: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize("name", ["qwen3", "llama3-old-schema"])
def test_merged_logits_are_the_adapters(bases: Bases, tmp_path: Path, name: str) -> None:
    base = bases(name)
    adapter = make(base, **SOME, alpha=2.0)
    merged = ml.load_base(write_merged(base, adapter, tmp_path))
    want = logits(base, adapter)
    assert np.abs(want - logits(base)).max() > MOVED
    np.testing.assert_allclose(logits(merged), want, rtol=0, atol=TOLERANCE)
    assert merged.config == base.config and merged.tokenizer("ab").input_ids == base.tokenizer("ab").input_ids


def test_only_adapted_weights_change_and_each_is_rounded_once(qwen3: Base, tmp_path: Path) -> None:
    """In bfloat16: the nearest number to W + scale·A·B of the bfloat16 W."""
    base = ml.load_base(qwen3.directory, "bfloat16")
    adapter = make(base, targets=("o_proj", "up_proj"), layers=(1,), rank=2, alpha=3.0, init="rslora")
    found = read(write_merged(base, adapter, tmp_path), jnp.bfloat16)["layers"]
    for module, target in (("self_attn", "o_proj"), ("mlp", "up_proj")):
        a, b = (node(adapter, target)[part][0].astype(float) for part in "ab")
        before = base.params["layers"][module][target]["kernel"]
        want = np.asarray(before[1], float) + adapter.lora.scale * (a @ b)
        kernel = found[module][target].pop("kernel")
        np.testing.assert_array_equal(np.asarray(kernel[1]), want.astype(np.float32).astype(jnp.bfloat16))
        assert np.any(kernel[1] != before[1])
        np.testing.assert_array_equal(kernel[np.array([0, 2, 3])], before[np.array([0, 2, 3])])
    others = jax.tree.map(lambda leaf: leaf, base.params["layers"])
    del others["self_attn"]["o_proj"]["kernel"], others["mlp"]["up_proj"]["kernel"]
    assert_same_tree(found, others)


@pytest.mark.parametrize("shard_bytes", [1, 100_000])
@pytest.mark.parametrize("name", ["qwen3-tied", "qwen2"])
def test_shards_read_like_one_file(bases: Bases, tmp_path: Path, name: str, shard_bytes: int) -> None:
    base = bases(name)
    adapter = make(base, targets=("q_proj",), rank=2)
    write_merged(base, adapter, tmp_path / "one")
    write_merged(base, adapter, tmp_path / "many", shard_bytes=shard_bytes)
    assert_same_tree(read(tmp_path / "many"), read(tmp_path / "one"))
    assert [path.name for path in (tmp_path / "one").glob("*.safetensors*")] == ["model.safetensors"]

    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    count = len(files)
    assert count > 1 and files == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    held = {file: load_file(tmp_path / "many" / file) for file in files}
    assert index["weight_map"] == {tensor: file for file, tensors in held.items() for tensor in tensors}
    sizes = {file: sum(tensor.nbytes for tensor in tensors.values()) for file, tensors in held.items()}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    for file, size in sizes.items():
        assert size <= shard_bytes or len(held[file]) == 1
    assert all(sizes[a] + sizes[b] > shard_bytes for a, b in itertools.pairwise(files))  # none too many


def test_an_earlier_export_leaves_no_shard_behind(qwen3: Base, tmp_path: Path) -> None:
    """An old index would send readers to old weights."""
    first, second = (make(qwen3, seed, targets=("q_proj",), rank=2) for seed in (1, 2))
    write_merged(qwen3, first, tmp_path, shard_bytes=50_000)
    write_merged(qwen3, second, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    write_merged(qwen3, second, tmp_path / "fresh")
    assert_same_tree(read(tmp_path), read(tmp_path / "fresh"))


def test_a_checkpoint_is_changed_tensor_by_tensor(qwen3: Base, tmp_path: Path) -> None:
    """`write_checkpoint` asks once for each tensor, in our layout."""
    asked = []

    def change(path: tuple[str, ...], layer: int | None, tensor: np.ndarray) -> np.ndarray:
        asked.append((path, layer, tensor.shape))
        return tensor * 2

    write_checkpoint(epath.Path(tmp_path), qwen3.config, qwen3.params, change=change)
    assert_same_tree(read(tmp_path), jax.tree.map(lambda leaf: leaf * 2, qwen3.params))
    assert len(asked) == len(set(asked)) == len(tiny.tensors("qwen3"))
    assert (("layers", "mlp", "down_proj", "kernel"), 3, (96, 64)) in asked
    assert (("lm_head", "kernel"), None, (64, 97)) in asked


@pytest.mark.parametrize(
    ("keys", "written"),
    [
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({}, {"dtype": "bfloat16"}),
    ],
)
def test_the_sources_config_survives_but_for_its_dtype(tmp_path: Path, keys: dict, written: dict) -> None:
    source = tiny.write(tmp_path / "source", "mistral")
    raw = {key: value for key, value in tiny.CASES["mistral"].items() if key != "torch_dtype"}
    raw |= {"bos_token_id": 95, "eos_token_id": [96, 95], "transformers_version": "4.0.0"}
    (source / "config.json").write_text(json.dumps(raw | keys))
    (source / "generation_config.json").write_text('{"eos_token_id": 96}')
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "README.md").write_text("not ours to pass on")
    base = ml.load_base(source, "bfloat16")
    write_merged(base, make(base, targets=("q_proj",)), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == raw | written
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
        "model.safetensors", "memlaw_merged.json",
    }  # fmt: skip
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    story = json.loads((tmp_path / "out" / "memlaw_merged.json").read_text())
    assert (story["base"], story["base_fingerprint"], story["scale"]) == (str(source), base.fingerprint, 1.0)


def test_a_tokenizer_without_files_is_saved(qwen3: Base, tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "source", "qwen3", tokenizer=False)
    base = dataclasses.replace(qwen3, directory=epath.Path(source))
    write_merged(base, make(base, targets=("q_proj",)), tmp_path / "out")
    assert ml.load_base(tmp_path / "out").tokenizer("ab").input_ids == qwen3.tokenizer("ab").input_ids


def test_progress_is_told(qwen3: Base, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_merged(
        qwen3, make(qwen3, targets=("q_proj",)), tmp_path, listen=lambda done, total: told.append((done, total))
    )
    count = len(tiny.tensors("qwen3"))
    assert told == [(i, count) for i in range(1, count + 1)]


def listing(folder: Path | epath.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("targets", [("mlp",), ("mlp", "q_proj")])
def test_a_bypass_is_refused_with_what_to_use(
    qwen3: Base, tmp_path: Path, refuses: Refuses, targets: tuple[str, ...]
) -> None:
    adapter = make(qwen3, targets=targets, layers=(1,))
    refuses(lambda: write_merged(qwen3, adapter, tmp_path / "out"), "mlp", "torch_hook", "--format torch")
    assert not (tmp_path / "out").exists()


def test_models_are_not_written_over(bases: Bases, qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    adapter = make(qwen3, targets=("q_proj",))
    before = listing(qwen3.directory)
    (tmp_path / "link").symlink_to(qwen3.directory)
    for own in (qwen3.directory, qwen3.directory / ".." / "qwen3", tmp_path / "link"):
        refuses(lambda own=own: write_merged(qwen3, adapter, own), "own folder")
    other = tiny.write(tmp_path / "other", "qwen2")
    others = listing(other)
    refuses(lambda: write_merged(qwen3, adapter, other), other, "another model")
    assert listing(qwen3.directory) == before and listing(other) == others


def test_a_merged_model_does_not_lie_with_a_peft_adapter(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    """transformers loads an adapter that it finds beside a model, which would then count twice."""
    adapter = make(qwen3, targets=("q_proj",))
    ml.to_peft(adapter, qwen3, tmp_path / "peft")
    refuses(lambda: write_merged(qwen3, adapter, tmp_path / "peft"), "adapter_config.json")
    write_merged(qwen3, adapter, tmp_path / "merged")
    refuses(lambda: ml.to_peft(adapter, qwen3, tmp_path / "merged"), "config.json")


def broken(adapter: Adapter, value: float) -> Adapter:
    node(adapter, "q_proj")["a"][0, 0, 0] = value
    return adapter


def test_weights_that_are_not_finite_are_refused(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    """And the folder, which has no config.json yet, loads nowhere; a second try may use it."""
    adapter = make(qwen3, targets=("q_proj",), layers=(2,))
    refuses(lambda: write_merged(qwen3, broken(adapter, np.nan), tmp_path), "q_proj of layer 2", "float32")
    half = ml.load_base(qwen3.directory, "float16")
    refuses(lambda: write_merged(half, broken(adapter, 1e6), tmp_path), "q_proj of layer 2", "float16")
    refuses(lambda: ml.load_base(tmp_path), "config.json")
    write_merged(qwen3, broken(adapter, 0.0), tmp_path)
    assert ml.load_base(tmp_path).config == qwen3.config


def test_another_models_adapter_is_refused(bases: Bases, qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    with pytest.warns(UserWarning, match="other weights"):
        refuses(lambda: write_merged(bases("qwen2"), make(qwen3, targets=("q_proj",)), tmp_path / "out"), "layers")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "file").write_text("mine")
    adapter = make(qwen3, targets=("q_proj",))
    refuses(lambda: write_merged(qwen3, adapter, tmp_path / "file"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_told_and_leaves_nothing_that_loads(qwen3: Base, tmp_path: Path, refuses: Refuses) -> None:
    """By a limit on the size of any file, which fails as a full disk does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # below one weight file, above all others
    try:
        refuses(lambda: write_merged(qwen3, make(qwen3, targets=("q_proj",)), tmp_path), tmp_path, "cannot write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "config.json").exists()
