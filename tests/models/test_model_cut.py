"""The decoder cut in two, in many pieces, padded, with an adapter value: always the same decoder."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from memlaw_jax.errors import UserError
from memlaw_jax.models import (
    Adapter,
    Base,
    Cut,
    Decoder,
    DecoderConfig,
    LoraConfig,
    frozen_features,
    head_logits,
    init_adapter,
    load_adapter,
    load_base,
    run_upper,
    scaled,
    upper_weights,
)
from memlaw_jax.models.decoder import default_positions, embed, final_norm, head_kernel, take_layers
from memlaw_jax.models.lora import PATHS

from . import tiny
from .conftest import Model
from .forward import above, below, counted, decode, everywhere, leaf, random_adapter, stack

LINEAR = tuple(target for target in PATHS if target != "mlp")
TOKENS, VALID = tiny.right_padded()
POSITIONS = counted(TOKENS)
DEEP = "llama3-old-schema"  # five layers, tied head
# Two compiled programs of one formula sum in different orders: 1e-6 at unit scale, a little more after five blocks.
SAME = {"rtol": 0, "atol": 1e-5}

CHOICES: dict[str, LoraConfig] = {
    "mlp at the paper's depth": LoraConfig(rank=3),
    "mlp at the last layer": LoraConfig(rank=3, layers=(4,)),
    "mlp at layers with gaps, unordered": LoraConfig(rank=3, layers=(4, 1, 2)),
    "mlp everywhere": LoraConfig(rank=3, layers=(0, 1, 2, 3, 4)),
    "two linear, everywhere": LoraConfig(rank=3, targets=("q_proj", "v_proj"), alpha=2.0, init="peft"),
    "two linear, gaps": LoraConfig(rank=3, targets=("o_proj", "down_proj"), layers=(1, 3)),
    "mixture": LoraConfig(rank=3, targets=("mlp", "gate_proj"), layers=(0, 2)),
    "all targets, one layer": LoraConfig(rank=3, targets=tuple(PATHS), layers=(3,)),
}


def spread(config: DecoderConfig, lora: LoraConfig, weights: Any) -> Any:
    """The adapter over every target and layer of the model, with zeros where it has nothing; alpha folded in."""
    full = random_adapter(config, LoraConfig(rank=3, targets=tuple(PATHS), layers=tuple(range(config.num_layers))), 0)
    full = jax.tree.map(np.zeros_like, full)
    layers = list(lora.adapted_layers(config))
    for target in lora.targets:
        leaf(full, target)["a"][layers] = leaf(weights, target)["a"]
        leaf(full, target)["b"][layers] = lora.scale * np.asarray(leaf(weights, target)["b"])
    return full


@pytest.mark.parametrize("choice", CHOICES)
def test_cutting_changes_nothing(choice: str, model: Callable[..., Model]):
    """Features from below and the run above give what one uncut stack of blocks gives; with B = 0, `Decoder` itself."""
    made, lora = model(DEEP), CHOICES[choice]
    cut = Cut.of(made.config, lora)
    features = below(made.config, made.params, cut, TOKENS, POSITIONS)
    upper = upper_weights(made.config, made.params, cut)
    weights = random_adapter(made.config, lora, 1)
    plain = np.asarray(decode(made.config, made.params, TOKENS))

    found = np.asarray(above(made.config, upper, cut, features, POSITIONS, scaled(weights, lora.scale)))
    assert np.abs(found - plain).max() > 0.1
    want = everywhere(made.config, made.params, TOKENS, POSITIONS, spread(made.config, lora, weights))
    np.testing.assert_allclose(found, want, **SAME)

    silent = jax.tree.map_with_path(lambda path, x: x * (path[-1].key == "a"), weights)
    np.testing.assert_allclose(above(made.config, upper, cut, features, POSITIONS, silent), plain, **SAME)


@pytest.mark.parametrize(
    ("choice", "layer", "inside", "segments"),
    [
        ("mlp at the paper's depth", 3, True, [(4, 5, None)]),
        ("mlp at the last layer", 4, True, []),
        ("mlp at layers with gaps, unordered", 1, True, [(2, 3, 1), (3, 4, None), (4, 5, 2)]),
        ("two linear, everywhere", 0, False, [(0, 5, 0)]),
        ("two linear, gaps", 1, False, [(1, 2, 0), (2, 3, None), (3, 4, 1), (4, 5, None)]),
        ("all targets, one layer", 3, False, [(3, 4, 0), (4, 5, None)]),
    ],
)
def test_the_cut_is_as_high_as_it_can_be(
    choice: str, layer: int, inside: bool, segments: list[tuple[int, int, int | None]]
):
    """Nothing frozen is computed above it: counted by hand for five layers."""
    cut = Cut.of(DecoderConfig.from_hf(tiny.CASES[DEEP]), CHOICES[choice])
    assert (cut.layer, cut.inside) == (layer, inside)
    assert [(segment.start, segment.stop, segment.first) for segment in cut.segments] == segments


def test_the_paper_cuts_inside_block_24_of_36():
    cut = Cut.of(DecoderConfig.qwen3_8b(), LoraConfig(rank=8))
    assert (cut.layer, cut.inside, len(cut.segments)) == (24, True, 1)
    assert (cut.segments[0].start, cut.segments[0].stop) == (25, 36)


@pytest.mark.parametrize("bounds", [(0, 5), (0, 2, 5), (0, 1, 3, 4, 5)])
def test_a_stack_in_pieces_is_the_whole(bounds: tuple[int, ...], model: Callable[..., Model]):
    made = model(DEEP)
    hidden = embed(made.params, TOKENS)
    for start, stop in itertools.pairwise(bounds):
        hidden = stack(made.config, take_layers(made.params["layers"], start, stop), hidden, POSITIONS)
    hidden = final_norm(made.config, made.params["norm"], hidden)
    found = head_logits(head_kernel(made.config, made.params), hidden)
    np.testing.assert_allclose(found, decode(made.config, made.params, TOKENS), **SAME)


def test_left_padding_passes_through_the_cut(model: Callable[..., Model]):
    made, lora = model("mistral"), LoraConfig(rank=3, layers=(1,))
    tokens, positions, valid = tiny.left_padded()
    cut, weights = Cut.of(made.config, lora), random_adapter(made.config, lora, 2)
    upper = upper_weights(made.config, made.params, cut)
    features = below(made.config, made.params, cut, tokens, positions, valid)
    left = np.asarray(above(made.config, upper, cut, features, positions, weights, valid))[valid]
    features = below(made.config, made.params, cut, TOKENS, POSITIONS, VALID)
    right = np.asarray(above(made.config, upper, cut, features, POSITIONS, weights, VALID))[VALID]
    np.testing.assert_allclose(left, right, **SAME)


@pytest.mark.parametrize("name", ["qwen3", "qwen2-sliding-tied"])
def test_right_padding_never_reaches_a_real_position(name: str, model: Callable[..., Model]):
    """Causal attention cannot see it: bit for bit, whatever stands there, and with no mask at all."""
    made, lora = model(name), LoraConfig(rank=3, targets=("mlp", "k_proj"), layers=(0, 2))
    cut, weights = Cut.of(made.config, lora), random_adapter(made.config, lora, 3)
    upper = upper_weights(made.config, made.params, cut)

    def run(tokens: np.ndarray) -> np.ndarray:
        features = below(made.config, made.params, cut, tokens, POSITIONS)
        adapted = above(made.config, upper, cut, features, POSITIONS, weights)
        return np.concatenate([np.asarray(adapted), np.asarray(decode(made.config, made.params, tokens))], axis=-1)

    other = np.where(VALID, TOKENS, (TOKENS * 7 + 11) % tiny.VOCABULARY)
    assert (other != TOKENS).any()
    first, second = run(TOKENS), run(other)
    np.testing.assert_array_equal(first[VALID], second[VALID])
    assert (first[~VALID] != second[~VALID]).any()
    short = np.asarray(decode(made.config, made.params, TOKENS[:, :9]))
    np.testing.assert_allclose(short, first[:, :9, tiny.VOCABULARY :], **SAME)


def inner(jaxpr: Any) -> Iterator[Any]:
    """A jaxpr and all that its equations hold."""
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                yield from inner(getattr(value, "jaxpr", value))


def equations(closed: Any) -> int:
    return sum(len(jaxpr.eqns) for jaxpr in inner(closed.jaxpr))


def captured_bytes(closed: Any) -> int:
    """Size of the largest constant in a traced function, whether lifted out or written into it."""
    sizes = [np.asarray(x).nbytes for x in closed.consts]
    for jaxpr in inner(closed.jaxpr):
        for equation in jaxpr.eqns:
            sizes += [np.asarray(x.val).nbytes for x in equation.invars if hasattr(x, "val")]
    return max(sizes, default=0)


def shapes(config: DecoderConfig, dtype: Any = jnp.bfloat16) -> Any:
    made = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), made)


def trace_training(config: DecoderConfig, lora: LoraConfig, length: int) -> Any:
    """The jaxpr of an adapter's gradient through the cut model, on shapes alone."""
    cut = Cut.of(config, lora)
    params = shapes(config)
    upper = jax.eval_shape(lambda params: upper_weights(config, params, cut), params)
    weights = jax.eval_shape(lambda key: init_adapter(config, lora, key), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def gradient(params: Any, upper: Any, weights: Any, tokens: Any) -> Any:
        positions = default_positions(tokens)
        features = frozen_features(config, params, cut, tokens, positions)

        def loss(weights: Any) -> jax.Array:
            hidden = run_upper(config, upper, cut, features, positions, scaled(weights, lora.scale))
            return head_logits(upper.head, hidden).sum()

        return jax.grad(loss)(weights)

    return jax.make_jaxpr(gradient)(params, upper, weights, tokens)


@pytest.mark.parametrize(
    "lora", [LoraConfig(rank=2, layers=(3,)), LoraConfig(rank=2, targets=LINEAR)], ids=["mlp", "linear"]
)
def test_a_deep_model_traces_like_a_shallow_one(lora: LoraConfig):
    """Layers are scanned, so 36 of them are as many equations as 6, gradient included."""
    config = DecoderConfig.qwen3_8b()
    deep, shallow = (equations(trace_training(config.with_layers(n), lora, 32)) for n in (36, 6))
    assert deep == shallow > 100


def test_the_count_of_equations_sees_layers_that_are_not_scanned():
    """The yardstick of the test above measures: a Python loop over blocks grows with them."""
    config = DecoderConfig.from_hf(tiny.CASES["qwen3"])
    alternating = [LoraConfig(rank=2, targets=("q_proj",), layers=tuple(range(0, n, 2))) for n in (2, 4)]
    few, many = (equations(trace_training(config.with_layers(8), lora, 8)) for lora in alternating)
    assert many > 1.3 * few


@pytest.mark.parametrize("name", ["qwen3_8b", "llama31_8b"])
def test_nothing_large_is_captured(name: str):
    """Weights are arguments; no causal mask or rotary table of 8192 positions is baked in (STYLE.md, 1)."""
    traced = trace_training(getattr(DecoderConfig, name)(), LoraConfig(rank=8), 8192)
    assert captured_bytes(traced) < 1 << 20


def test_captured_constants_are_seen():
    """The yardstick measures: a closure over two megabytes is found, at the top and inside a scan."""
    big = jnp.arange(1 << 19, dtype=jnp.float32)
    assert captured_bytes(jax.make_jaxpr(lambda x: x + big)(1.0)) >= 1 << 21
    nested = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c + big.sum() * (big + c)[0], None), x, length=2))(1.0)
    assert captured_bytes(nested) >= 1 << 21


@pytest.fixture(scope="module")
def base(model: Callable[..., Model]) -> Base:
    return load_base(model("qwen3").directory)


def make_adapter(base: Base, lora: LoraConfig, weights: Any) -> Adapter:
    return Adapter(
        lora=lora,
        layers=lora.adapted_layers(base.config),
        weights=weights,
        model=base.name,
        model_fingerprint=base.fingerprint,
    )


MIXED = LoraConfig(rank=3, targets=("mlp", "v_proj"), layers=(1, 3), alpha=6.0)


@pytest.fixture(scope="module")
def adapter(base: Base) -> Adapter:
    return make_adapter(base, MIXED, random_adapter(base.config, MIXED, 4))


def test_a_base_is_what_its_directory_says(base: Base, model: Callable[..., Model]):
    made = model("qwen3")
    assert base.config == made.config
    assert (base.name, base.dtype) == (str(made.directory), "float32")
    assert base.tokenizer("Ada: 42").input_ids == [ord(c) - 32 for c in "Ada: 42"]
    assert base.pad_id == 95
    jax.tree.map(np.testing.assert_array_equal, base.params, made.params)


def test_logits_of_a_base(base: Base, adapter: Adapter):
    """As shipped and compiled: without an adapter, with a trained one, and with a fresh one."""
    plain = base.logits(TOKENS)
    assert plain.shape == (*TOKENS.shape, tiny.VOCABULARY) and plain.dtype == jnp.float32
    np.testing.assert_allclose(plain, decode(base.config, base.params, TOKENS), **SAME)
    want = everywhere(base.config, base.params, TOKENS, POSITIONS, spread(base.config, MIXED, adapter.weights))
    np.testing.assert_allclose(base.logits(TOKENS, adapter), want, **SAME)
    assert np.abs(np.asarray(want) - np.asarray(plain)).max() > 0.1
    fresh = make_adapter(base, MIXED, init_adapter(base.config, MIXED, jax.random.key(0)))
    np.testing.assert_allclose(base.logits(TOKENS, fresh), plain, **SAME)


@pytest.mark.parametrize("name", ["qwen3", DEEP])
def test_a_fresh_adapter_changes_no_logit_in_bfloat16(name: str, model: Callable[..., Model]):
    """Both ways to the logits round alike: a bfloat16 digit of difference would be taken for learning."""
    made = model(name)
    lora = LoraConfig(rank=3, layers=(made.config.num_layers - 1,))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), made.params)
    cut, fresh = Cut.of(made.config, lora), init_adapter(made.config, lora, jax.random.key(0))
    features = below(made.config, params, cut, TOKENS, POSITIONS)
    adapted = np.asarray(above(made.config, upper_weights(made.config, params, cut), cut, features, POSITIONS, fresh))
    plain = np.asarray(decode(made.config, params, TOKENS))
    # Products are summed in float32, so a logit has more than bfloat16's 8 bits unless somebody rounded it.
    for logits in (plain, adapted):
        assert (logits != logits.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.9
    np.testing.assert_allclose(adapted, plain, **SAME)


def test_an_adapter_reads_back_the_same(adapter: Adapter, base: Base, tmp_path: Path):
    path = adapter.save(tmp_path / "deep" / "adapter")
    assert sorted(x.name for x in Path(path).iterdir()) == ["adapter.safetensors", "memlaw_adapter.json"]
    found = load_adapter(path)
    for field in dataclasses.fields(Adapter):
        if field.name != "weights":
            assert getattr(found, field.name) == getattr(adapter, field.name)
    assert jax.tree.structure(found.weights) == jax.tree.structure(adapter.weights)
    jax.tree.map(np.testing.assert_array_equal, found.weights, adapter.weights)
    np.testing.assert_array_equal(base.logits(TOKENS, found), base.logits(TOKENS, adapter))
    assert set(load_file(tmp_path / "deep" / "adapter" / "adapter.safetensors")) == {
        "mlp.a", "mlp.b", "self_attn.v_proj.a", "self_attn.v_proj.b",
    }  # fmt: skip


def test_a_bfloat16_adapter_reads_back_the_same_numbers(adapter: Adapter, tmp_path: Path):
    short = dataclasses.replace(adapter, weights=jax.tree.map(lambda x: x.astype(jnp.bfloat16), adapter.weights))
    found = load_adapter(short.save(tmp_path)).weights
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.astype(np.float32), y), found, short.weights)


def edit_meta(**change: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        file = path / "memlaw_adapter.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))

    return edit


def cut_short(path: Path) -> None:
    file = path / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def drop_key(path: Path) -> None:
    file = path / "memlaw_adapter.json"
    meta = json.loads(file.read_text())
    del meta["layers"]
    file.write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: (path / "memlaw_adapter.json").unlink(), "no adapter directory"),
        (lambda path: (path / "adapter.safetensors").unlink(), "no adapter directory"),
        (lambda path: (path / "memlaw_adapter.json").write_text("{"), "corrupt"),
        (lambda path: (path / "memlaw_adapter.json").write_text("[]"), "corrupt"),
        (drop_key, "corrupt"),
        (cut_short, "corrupt"),
        (edit_meta(format=2), "format 2"),
        (edit_meta(lora={"rank": 3, "targets": ["mlp"], "droppout": 0.1}), "no setting 'droppout'"),
        (edit_meta(lora={"rank": -3}), "rank is -3"),
        (edit_meta(lora="x"), "no such lora"),
        (edit_meta(layers=3), "no such layers"),
        (edit_meta(model=None), "no such model"),
    ],
    ids=[
        "no meta",
        "no weights",
        "torn meta",
        "list meta",
        "no layers",
        "torn weights",
        "format",
        "unknown",
        "rank",
        "lora",
        "layers",
        "model",
    ],
)
def test_a_spoiled_adapter_is_one_sentence(spoil: Callable[[Path], Any], says: str, adapter: Adapter, tmp_path: Path):
    adapter.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError) as error:
        load_adapter(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_path_that_is_no_adapter_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(UserError, match="no adapter directory"):
            load_adapter(path)


def test_an_adapter_of_another_model_is_refused(adapter: Adapter, base: Base, model: Callable[..., Model]):
    """More layers are no obstacle, other widths, depths and weights of another shape are."""
    with pytest.raises(UserError, match="v_proj"):  # 2 key/value heads of 24 features there, 1 of 32 here
        adapter.check(model("qwen3-tied").config.with_layers(4))
    with pytest.raises(UserError, match=r"\[1, 3\]"):
        adapter.check(base.config.with_layers(3))
    every_layer = LoraConfig(rank=3, targets=("v_proj",))
    of_four = make_adapter(base, every_layer, random_adapter(base.config, every_layer, 5))
    with pytest.raises(UserError, match=r"\[0, 1, 2, 3\]"):
        of_four.check(base.config.with_layers(5))
    adapter.check(base.config)
    adapter.check(base.config.with_layers(5))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weights: jax.tree.map(lambda x: x[:1], weights),  # one layer of two
        lambda weights: {"mlp": weights["mlp"]},  # one target of two
        lambda weights: jax.tree.map_with_path(lambda p, x: x[..., :2] if p[-1].key == "a" else x[..., :2, :], weights),
    ],
    ids=["layers", "targets", "rank"],
)
def test_weights_that_contradict_their_own_config_are_refused(
    spoil: Callable[[Any], Any], adapter: Adapter, base: Base
):
    """alpha/r is wrong at another rank, and a missing layer or target would be left out in silence."""
    with pytest.raises(UserError):
        dataclasses.replace(adapter, weights=spoil(adapter.weights)).check(base.config)
