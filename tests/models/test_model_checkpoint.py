"""Hugging Face directories: what goes out comes back in, and what cannot be read is named in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

from memlaw_jax.errors import UserError
from memlaw_jax.models import DecoderConfig, load_base
from memlaw_jax.models.checkpoint import fingerprint, read_config, read_params, write_checkpoint

from . import tiny
from .conftest import Model
from .forward import decode

CASES = list(tiny.CASES)
RAW = tiny.CASES["qwen3"]
K_PROJ = "model.layers.1.self_attn.k_proj.weight"


def read(directory: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, Any]:
    config = read_config(epath.Path(directory))
    return config, read_params(epath.Path(directory), config, dtype)


def assert_same_tree(found: Any, want: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(want)

    def same(path: Any, a: Any, b: Any) -> None:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))
        assert a.dtype == b.dtype

    jax.tree.map_with_path(same, found, want)


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_reads_back_the_same(name: str, tmp_path: Path, model: Callable[..., Model]):
    made = model(name)
    write_checkpoint(epath.Path(tmp_path / "deep" / "out"), made.config, made.params)
    config, params = read(tmp_path / "deep" / "out")
    assert config == made.config
    assert_same_tree(params, made.params)


@pytest.mark.parametrize("name", CASES)
def test_every_stored_number_arrives_at_its_place(name: str, model: Callable[..., Model]):
    """Against the tensors the directory was written from: a reader and a writer with one mistake would agree."""
    params = model(name).params
    for key, want in tiny.tensors(name).items():
        *path, last = key.removeprefix("model.").split(".")
        node, index = params, ()
        for part in path:
            if part.isdigit():
                index = (int(part),)
            else:
                node = node[part]
        kind = "bias" if last == "bias" else next(x for x in ("kernel", "scale", "embedding") if x in node)
        found = np.asarray(node[kind])[index]
        np.testing.assert_array_equal(found, want.T if kind == "kernel" else want, err_msg=key)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["qwen3", "llama3-old-schema", "qwen2-sliding-tied", "mistral"])
def test_transformers_loads_what_we_write(name: str, dtype: str, tmp_path: Path, model: Callable[..., Model]):
    """The same logits from our directory as from the original one, bit for bit: the same tensors and constants."""
    import torch
    from transformers import AutoModelForCausalLM

    made = model(name)
    params = jax.tree.map(lambda x: x.astype(dtype), made.params)
    write_checkpoint(epath.Path(tmp_path), made.config, params)
    tokens = torch.tensor(tiny.right_padded()[0]).long()
    both = []
    for directory in (tmp_path, made.directory):
        loaded, report = AutoModelForCausalLM.from_pretrained(
            directory, dtype=getattr(torch, dtype), attn_implementation="eager", output_loading_info=True
        )
        assert not any(report.values()), report
        with torch.inference_mode():
            both.append(loaded.eval()(tokens).logits)
    assert torch.equal(*both)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype
    assert stored == getattr(torch, dtype)


def test_shards_read_like_a_single_file(tmp_path: Path, model: Callable[..., Model]):
    tiny.write(tmp_path, "qwen3", shards=3)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert_same_tree(read(tmp_path)[1], model("qwen3").params)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_dtypes(stored: str, wanted: str, tmp_path: Path, model: Callable[..., Model]):
    """Each number is rounded to the stored dtype and from there, once, to the wanted one."""
    tiny.write(tmp_path, "llama-linear", dtype=stored)
    want = jax.tree.map(lambda x: np.asarray(x).astype(stored).astype(wanted), model("llama-linear").params)
    assert_same_tree(read(tmp_path, jnp.dtype(wanted))[1], want)


def test_fingerprints_tell_checkpoints_apart(tmp_path: Path, model: Callable[..., Model]):
    weights = tiny.tensors("qwen3")
    weights["model.norm.weight"] = weights["model.norm.weight"].copy()
    weights["model.norm.weight"][5] += 1e-3
    other = epath.Path(tiny.write(tmp_path / "other", "qwen3", weights=weights))
    again = epath.Path(tiny.write(tmp_path / "again", "qwen3"))
    original = fingerprint(epath.Path(model("qwen3").directory))
    assert fingerprint(again) == original != fingerprint(other)


def test_a_tied_head_that_is_stored_all_the_same_is_accepted(tmp_path: Path, model: Callable[..., Model]):
    weights = tiny.tensors("qwen3-tied")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    tiny.write(tmp_path, "qwen3-tied", weights=weights)
    assert_same_tree(read(tmp_path)[1], model("qwen3-tied").params)


def test_derived_rotary_buffers_of_old_checkpoints_are_ignored(tmp_path: Path, model: Callable[..., Model]):
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32) for i in range(3)}
    tiny.write(tmp_path, "llama-linear", weights=tiny.tensors("llama-linear") | buffers)
    assert_same_tree(read(tmp_path)[1], model("llama-linear").params)


def test_a_config_is_its_own_round_trip():
    for config in (
        DecoderConfig.qwen3_8b(),
        DecoderConfig.llama31_8b(),
        *map(DecoderConfig.from_hf, tiny.CASES.values()),
    ):
        assert DecoderConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize("name", CASES)
def test_our_config_means_the_same_to_transformers(name: str, tmp_path: Path):
    """What AutoConfig understands of our config.json is what it understands of the original."""
    from transformers import AutoConfig

    def understood(raw: dict[str, Any]) -> dict[str, Any]:
        (tmp_path / "config.json").write_text(json.dumps(raw))
        config = AutoConfig.from_pretrained(tmp_path)
        rope = {
            key: value for key, value in config.rope_parameters.items() if key != "type"
        }  # the old name of rope_type
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        plain = (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings",
        )  # fmt: skip
        named = {"rope": rope, "sliding_window": window, "head_dim": head_dim}
        return {key: getattr(config, key) for key in plain} | named | {"layers": getattr(config, "layer_types", None)}

    raw = tiny.CASES[name]
    assert understood(DecoderConfig.from_hf(raw).to_hf()) == understood(raw)


@pytest.mark.parametrize("family", ["qwen3", "llama", "qwen2", "mistral"])
def test_a_key_that_is_left_out_means_what_it_means_to_transformers(family: str, tmp_path: Path):
    """Old and hand-made configs leave keys out; a default of our own would change the logits in silence."""
    from transformers import AutoConfig

    raw = {
        "model_type": family, "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs, config = AutoConfig.from_pretrained(tmp_path), DecoderConfig.from_hf(raw)
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.tie_word_embeddings == theirs.tie_word_embeddings
    assert config.rope_theta == theirs.rope_parameters["rope_theta"]
    window = theirs.sliding_window if getattr(theirs, "use_sliding_window", family == "mistral") else None
    assert config.sliding_window == window


def test_a_window_that_transformers_ignores_is_not_applied():
    """LlamaForCausalLM never looks at `sliding_window`: apply nothing, or refuse it by name."""
    try:
        config = DecoderConfig.from_hf(tiny.CASES["llama-linear"] | {"sliding_window": 5})
    except UserError as error:
        assert "sliding_window" in str(error)
    else:
        assert config.sliding_window is None


LLAMA3 = tiny.CASES["llama3-new-schema"]
BAD_CONFIGS: list[tuple[Any, str]] = [
    (RAW | {"model_type": "gpt2"}, "model_type 'gpt2'"),
    ({key: value for key, value in RAW.items() if key != "model_type"}, "model_type None"),
    (RAW | {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (gptq)"),
    (RAW | {"logit_softcap": 30.0}, "logit_softcap"),
    (RAW | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    (RAW | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    (RAW | {"attention_bias": True}, "attention_bias is true"),
    (LLAMA3 | {"mlp_bias": True}, "mlp_bias is true"),
    ({key: value for key, value in RAW.items() if key != "hidden_size"}, "hidden_size"),
    (RAW | {"num_hidden_layers": 0}, "num_layers is 0"),
    (RAW | {"num_key_value_heads": 3}, "4 attention heads do not divide into 3"),
    (RAW | {"head_dim": 17}, "head_dim is 17"),
    (RAW | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, "mixes sliding-window"),
    (
        RAW | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0,
               "layer_types": ["full_attention", "sliding_attention"] * 2},
        "mixes sliding-window",
    ),
    (RAW | {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
    (LLAMA3 | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "'yarn'"),
    (tiny.CASES["llama-linear"] | {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
    (
        LLAMA3 | {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        "differ by layer type",
    ),
    (LLAMA3 | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
    (LLAMA3 | {"rope_theta": 5e5}, "rope_theta is 10000.0 and 500000.0"),
    (LLAMA3 | {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_parameters and rope_scaling, which differ"),
    (RAW | {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [2, 1]}}, "mrope_section"),
    (tiny.CASES["llama-linear"] | {"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 1}}, "beta_fast"),
    (LLAMA3 | {"rope_scaling": {"type": "dynamic"}}, "rope_parameters and rope_scaling, which differ"),
    (RAW | {"rms_norm_eps": None}, "rms_norm_eps is None"),
    (RAW | {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
    (RAW | {"rope_parameters": {"rope_theta": 0.0, "rope_type": "default"}}, "rope_theta is 0.0"),
    (tiny.CASES["llama-linear"] | {"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor is 0.0"),
    (tiny.CASES["mistral"] | {"sliding_window": 0}, "sliding_window is 0"),
    (RAW | {"head_dim": "24"}, "head_dim is '24'"),
    (RAW | {"rope_parameters": "foo"}, "rope_parameters is 'foo'"),
    (RAW | {"quantization_config": "gptq"}, "quantised (gptq)"),
    (RAW | {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map"),
    (
        LLAMA3 | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
        "low_freq_factor",
    ),
    (RAW | {"hidden_size": "64"}, "hidden_size"),
    (RAW | {"vocab_size": None}, "vocab_size"),
    ([RAW], "config.json"),
]  # fmt: skip


def one_sentence(error: pytest.ExceptionInfo[UserError], says: str) -> None:
    """The culprit is named, and the text is a line that a user can read."""
    text = str(error.value)
    assert says in text
    assert "\n" not in text and "Traceback" not in text and len(text) < 400


@pytest.mark.parametrize(("raw", "says"), BAD_CONFIGS, ids=[says for _, says in BAD_CONFIGS])
def test_a_config_that_cannot_be_read_is_named(raw: Any, says: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UserError) as error:
        read_config(epath.Path(tmp_path))
    one_sentence(error, says)


@pytest.mark.parametrize("content", ["", '{"model_type": "qwen3",', "\x00\x01", "null"])
def test_a_corrupt_config_is_named(content: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as error:
        load_base(tmp_path)
    one_sentence(error, "config.json")


def test_a_missing_directory_or_config_is_named(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("x")
    for source, says in (
        (tmp_path / "none", str(tmp_path / "none")),
        ("none", "no model directory none"),
        ("./none/at-all", "./none/at-all"),
        (file, str(file)),
        (tmp_path, "no config.json"),
    ):
        with pytest.raises(UserError) as error:
            load_base(source)
        one_sentence(error, says)


def drop(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value for key, value in weights.items() if key != K_PROJ}


BAD_TENSORS: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = {
    "missing": (drop, f"lacks {K_PROJ}, "),
    "missing layer": (
        lambda weights: {key: value for key, value in weights.items() if ".layers.3." not in key},
        "lacks model.layers.3.input_layernorm.weight and 10 more tensors",
    ),
    "extra": (lambda weights: weights | {"model.layers.0.mlp.gate.weight": np.zeros(4, np.float32)}, "mlp.gate.weight"),
    "extra layer": (lambda weights: weights | {K_PROJ.replace("1", "4"): weights[K_PROJ]}, "layers.4.self_attn.k_proj"),
    "bias": (lambda weights: weights | {K_PROJ.replace("weight", "bias"): np.zeros(48, np.float32)}, "k_proj.bias"),
    "mis-shaped": (lambda weights: weights | {K_PROJ: weights[K_PROJ][:40]}, f"{K_PROJ} has the shape (40, 64)"),
    "transposed": (lambda weights: weights | {K_PROJ: weights[K_PROJ].T.copy()}, f"{K_PROJ} has the shape (64, 48)"),
    "int8": (lambda weights: weights | {K_PROJ: weights[K_PROJ].astype(np.int8)}, f"{K_PROJ} is stored as I8"),
    "vocabulary": (
        lambda weights: weights | {"lm_head.weight": weights["lm_head.weight"][:96]},
        "lm_head.weight has the shape (96, 64)",
    ),
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_a_tensor_that_does_not_fit_is_named(kind: str, shards: int, tmp_path: Path):
    change, says = BAD_TENSORS[kind]
    tiny.write(tmp_path, "qwen3", weights=change(tiny.tensors("qwen3")), shards=shards)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, says)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path):
    weights = tiny.tensors("qwen3-tied")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + np.float32(1e-3)
    tiny.write(tmp_path, "qwen3-tied", weights=weights)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, "lm_head.weight differs")


@pytest.mark.parametrize("keep", [0, 100, -1])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_weight_file_cut_short_is_named(keep: int, shards: int, tmp_path: Path):
    tiny.write(tmp_path, "qwen3", shards=shards)
    file = max(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, file.name)


def test_missing_weight_files_are_named(tmp_path: Path):
    tiny.write(tmp_path / "shards", "qwen3", shards=2)
    shard = max((tmp_path / "shards").glob("*.safetensors"))
    shard.unlink()
    tiny.write(tmp_path / "none", "qwen3")
    (tmp_path / "none" / "model.safetensors").rename(tmp_path / "none" / "pytorch_model.bin")
    for directory, says in (("shards", shard.name), ("none", "model.safetensors")):
        with pytest.raises(UserError) as error:
            read(tmp_path / directory)
        one_sentence(error, says)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"x": 3}}'])
def test_a_corrupt_index_is_named(content: str, tmp_path: Path):
    tiny.write(tmp_path, "qwen3", shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, "model.safetensors.index.json")


def test_an_index_that_promises_too_much_is_named(tmp_path: Path):
    tiny.write(tmp_path, "qwen3", shards=2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, second = sorted(set(index["weight_map"].values()))
    index["weight_map"][K_PROJ] = first if index["weight_map"][K_PROJ] == second else second
    path.write_text(json.dumps(index))
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, f"lacks {K_PROJ}")


def test_a_peft_adapter_in_the_models_folder_is_named(tmp_path: Path):
    """transformers would put it on top of the weights."""
    tiny.write(tmp_path, "qwen3")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, "adapter_config.json")


def test_a_tensor_in_two_shards_is_named(tmp_path: Path):
    tiny.write(tmp_path, "qwen3", shards=2)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, f"{second.name} and {first.name} both hold")


@pytest.mark.parametrize("name", ["qwen3", "llama-linear", "mistral"])
def test_no_tokenizer_is_named(name: str, tmp_path: Path):
    tiny.write(tmp_path, name, tokenizer=False)
    with pytest.raises(UserError) as error:
        load_base(tmp_path)
    one_sentence(error, "no tokenizer")


@pytest.mark.parametrize("content", ["{", '{"version": "1.0", "model": {"type": "Nonsense"}}', ""])
def test_a_corrupt_tokenizer_is_named(content: str, tmp_path: Path):
    tiny.write(tmp_path, "llama-linear")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError) as error:
        load_base(tmp_path)
    one_sentence(error, "tokenizer")


def test_an_unknown_dtype_is_named(model: Callable[..., Model]):
    with pytest.raises(UserError) as error:
        load_base(model("qwen3").directory, dtype="int4")
    one_sentence(error, "'int4'")


def test_a_hub_id_without_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The real client, told that it is offline and given an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        load_base("somebody/no-such-model")
    one_sentence(error, "somebody/no-such-model")


@pytest.mark.parametrize(
    "failure",
    [ConnectionError("no route to host\nsecond line"), TimeoutError(), PermissionError(13, "cache is read-only")],
)
def test_a_failed_download_is_named(failure: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError) as error:
        load_base("somebody/no-such-model")
    one_sentence(error, "somebody/no-such-model")


def test_a_hub_id_that_cannot_be_one_is_named():
    with pytest.raises(UserError) as error:
        load_base("some body/no:model")
    one_sentence(error, "some body/no:model")


def test_a_downloaded_snapshot_is_read_like_a_directory(monkeypatch: pytest.MonkeyPatch, model: Callable[..., Model]):
    made = model("qwen3")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(made.directory))
    base = load_base("somebody/model")
    assert base.name == "somebody/model"
    assert_same_tree(base.params, made.params)


def test_shards_give_the_same_logits(tmp_path: Path, model: Callable[..., Model]):
    """bfloat16 shards of a tied model, all the way to logits: the float32 run on the same rounded numbers is equal."""
    config, params = read(tiny.write(tmp_path, "llama3-old-schema", dtype="bfloat16", shards=4))
    rounded = jax.tree.map(
        lambda x: np.asarray(x).astype("bfloat16").astype(np.float32), model("llama3-old-schema").params
    )
    tokens = tiny.right_padded()[0]
    np.testing.assert_array_equal(decode(config, params, tokens), decode(config, rounded, tokens))
