"""LoRA: what a bypass computes, how it starts, what it counts, and that padding its rank is exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.models import (
    Cut,
    DecoderConfig,
    LoraConfig,
    init_adapter,
    pad_rank,
    run_upper,
    scaled,
    trim_rank,
    upper_weights,
)
from memlaw_jax.models.decoder import embed, take_layers
from memlaw_jax.models.layers import Block
from memlaw_jax.models.lora import PATHS

from . import tiny
from .conftest import Model
from .forward import above, below, compiled, counted, decode, leaf, random_adapter, stack

TARGETS = list(PATHS)
LINEAR = [target for target in TARGETS if target != "mlp"]
LAYERS = (1, 2)
TOKENS = tiny.right_padded()[0]


def adapted_logits(made: Model, lora: LoraConfig, weights: Any) -> np.ndarray:
    """Through the cut, as training does it."""
    cut, positions = Cut.of(made.config, lora), counted(TOKENS)
    features = below(made.config, made.params, cut, TOKENS, positions)
    upper = upper_weights(made.config, made.params, cut)
    return np.asarray(above(made.config, upper, cut, features, positions, scaled(weights, lora.scale)))


def merge(made: Model, lora: LoraConfig, weights: Any) -> Any:
    """The frozen parameters with W + scale·A·B, summed in float64, in the adapted layers."""
    params = jax.tree.map(lambda x: x, made.params)
    for target in lora.targets:
        module = leaf(params["layers"], target)
        kernel = np.asarray(module["kernel"], np.float64).copy()
        a, b = (np.asarray(leaf(weights, target)[x], np.float64) for x in "ab")
        kernel[list(lora.adapted_layers(made.config))] += lora.scale * np.einsum("lir,lro->lio", a, b)
        module["kernel"] = kernel.astype(np.float32)
    return params


@pytest.mark.parametrize("init", ["paper", "peft", "rslora"])
@pytest.mark.parametrize("targets", [("mlp",), tuple(LINEAR)], ids=["mlp", "linear"])
def test_a_fresh_adapter_changes_no_logit(targets: tuple[str, ...], init: Any, model: Callable[..., Model]):
    """B = 0, so x·A·B is a sum of exact zeros: equal bit for bit, whatever A and alpha are."""
    made = model("qwen3")
    lora = LoraConfig(rank=3, targets=targets, layers=LAYERS, init=init, alpha=16.0)
    fresh = init_adapter(made.config, lora, jax.random.key(1))
    assert all(np.abs(leaf(fresh, target)["a"]).min() > 0 for target in targets)
    np.testing.assert_array_equal(adapted_logits(made, lora, fresh), decode(made.config, made.params, TOKENS))


# W + scale·A·B is rounded to float32 once where x·W + (x·A)·B is rounded product by product: about 1e-7 of values of
# unit scale a layer, and four layers of them.
@pytest.mark.parametrize("target", LINEAR)
def test_a_linear_target_equals_merged_weights(target: str, model: Callable[..., Model]):
    """One target at a time; the others are there with A = B = 0, so that one compiled program serves all seven."""
    made = model("qwen3")
    lora = LoraConfig(rank=3, targets=tuple(LINEAR), layers=LAYERS, init="peft", alpha=1.5)
    weights = random_adapter(made.config, lora, 2)
    for other in LINEAR:
        if other != target:
            leaf(weights, other).update(jax.tree.map(np.zeros_like, leaf(weights, other)))
    found = adapted_logits(made, lora, weights)
    plain = np.asarray(decode(made.config, made.params, TOKENS))
    assert np.abs(found - plain).max() > 0.05
    merged = decode(made.config, merge(made, lora, weights), TOKENS)
    np.testing.assert_allclose(found, merged, rtol=0, atol=1e-5)


def test_all_linear_targets_together_equal_merged_weights(model: Callable[..., Model]):
    made = model("qwen2")  # with biases, which the bypass leaves alone
    lora = LoraConfig(rank=3, targets=tuple(LINEAR), init="peft", alpha=1.5)
    weights = random_adapter(made.config, lora, 3)
    merged = decode(made.config, merge(made, lora, weights), TOKENS)
    np.testing.assert_allclose(adapted_logits(made, lora, weights), merged, rtol=0, atol=1e-5)


def test_the_mlp_bypass_is_block_output_plus_x_a_b(model: Callable[..., Model]):
    """PAPER.md, section 2, at two neighbouring blocks, with the bypass added by NumPy in float64."""
    made = model("qwen3")
    lora = LoraConfig(rank=3, layers=LAYERS, alpha=5.0)
    weights = random_adapter(made.config, lora, 4)
    layers, positions = made.params["layers"], counted(TOKENS)
    frozen = compiled()(lambda block, hidden: Block(made.config).apply(block, hidden, positions, method="around_mlp"))

    hidden = stack(made.config, take_layers(layers, 0, LAYERS[0]), embed(made.params, TOKENS), positions)
    for index, layer in enumerate(LAYERS):
        block = jax.tree.map(lambda x, layer=layer: x[layer], layers)
        x, output = (np.asarray(y, np.float64) for y in frozen({"params": block}, hidden))
        a, b = (np.asarray(weights["mlp"][name][index], np.float64) for name in "ab")
        hidden = (output + lora.scale * (x @ a @ b)).astype(np.float32)
    hidden = stack(made.config, take_layers(layers, LAYERS[1] + 1, made.config.num_layers), hidden, positions)
    wide = np.asarray(hidden, np.float64)
    wide = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + made.config.rms_norm_eps)
    want = wide * np.asarray(made.params["norm"]["scale"]) @ np.asarray(made.params["lm_head"]["kernel"])

    found = adapted_logits(made, lora, weights)
    assert np.abs(found - np.asarray(decode(made.config, made.params, TOKENS))).max() > 0.05
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5)  # float32 against float64 over a few blocks


def test_effective_parameters_of_the_papers_geometry():
    for config in (DecoderConfig.qwen3_8b(), DecoderConfig.llama31_8b()):
        for rank in (1, 8, 64, 4096):
            assert LoraConfig(rank=rank).effective_parameters(config) == 8192 * rank
    assert LoraConfig().adapted_layers(DecoderConfig.qwen3_8b()) == (24,)
    # PEFT's published count for rank 8 on q and v of all 36 layers: 8·((4096 + 4096) + (4096 + 1024))·36.
    assert LoraConfig(rank=8, targets=("q_proj", "v_proj")).effective_parameters(DecoderConfig.qwen3_8b()) == 3_833_856


@pytest.mark.parametrize("targets", [*((target,) for target in TARGETS), ("mlp", "down_proj"), tuple(LINEAR)])
def test_effective_parameters_are_the_sizes_of_the_arrays(targets: tuple[str, ...]):
    for config in (DecoderConfig.qwen3_8b(), DecoderConfig.from_hf(tiny.CASES["qwen3"]).with_layers(40)):
        lora = LoraConfig(rank=5, targets=targets, layers=(3, 20, 35))
        shapes = jax.eval_shape(lambda key, c=config, x=lora: init_adapter(c, x, key), jax.random.key(0))
        assert lora.effective_parameters(config) == sum(x.size for x in jax.tree.leaves(shapes))
        assert all(x.shape[0] == 3 and x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))
        for target in targets:
            assert set(leaf(shapes, target)) >= {"a", "b"}


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"init": "paper"}, 1.0),  # the release has no alpha/r
        ({"init": "paper", "alpha": 32.0}, 2.0),
        ({"init": "peft"}, 0.5),  # PEFT's default lora_alpha is 8
        ({"init": "peft", "alpha": 32.0}, 2.0),
        ({"init": "rslora"}, 2.0),  # alpha/√r
        ({"init": "rslora", "alpha": 32.0}, 8.0),
    ],
)
def test_scale(settings: dict[str, Any], scale: float):
    lora = LoraConfig(rank=16, **settings)
    assert lora.scale == pytest.approx(scale)
    weights = {"mlp": {"a": jnp.ones((1, 4, 2)), "b": jnp.ones((1, 2, 4))}}
    folded = scaled(weights, lora.scale)["mlp"]
    assert (folded["a"] == 1).all() and folded["b"] == pytest.approx(scale)


@pytest.mark.parametrize("init", ["paper", "peft", "rslora"])
def test_initialisation(init: Any, model: Callable[..., Model]):
    """A ~ U(±1/√r) for `paper`, U(±1/√d_in) for the others; B = 0; each target, layer and seed draws its own."""
    config, rank = model("qwen3").config, 9
    lora = LoraConfig(rank=rank, targets=("q_proj", "o_proj", "mlp"), layers=(0, 1, 3), init=init)
    drawn = [jax.tree.map(np.asarray, init_adapter(config, lora, jax.random.key(seed))) for seed in (0, 0, 1)]
    for target in lora.targets:
        a, again, other = (np.asarray(leaf(weights, target)["a"]) for weights in drawn)
        bound = 1 / math.sqrt(rank if init == "paper" else config.linear_shape(target)[0])
        assert a.shape == (3, config.linear_shape(target)[0], rank)
        # 1728 draws or more: the largest is 1 % below the bound once in e¹⁷ times, the deviation is known to 1.1 %.
        assert 0.99 * bound < np.abs(a).max() <= bound
        assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(a.mean()) < 4 * bound / math.sqrt(3 * a.size)
        assert np.unique(a).size > 0.9 * a.size
        np.testing.assert_array_equal(a, again)
        assert (a != other).mean() > 0.99 and (a[0] != a[1]).mean() > 0.99
        assert not np.any(leaf(drawn[0], target)["b"])
    q, mlp = (np.asarray(leaf(drawn[0], target)["a"]) for target in ("q_proj", "mlp"))
    assert (q != mlp).mean() > 0.99  # the same shape, not the same numbers


def test_a_target_draws_the_same_numbers_whatever_its_company(model: Callable[..., Model]):
    config, key = model("qwen3").config, jax.random.key(5)
    alone = init_adapter(config, LoraConfig(rank=2, targets=("v_proj",), layers=(1,)), key)
    both = init_adapter(config, LoraConfig(rank=2, targets=("up_proj", "v_proj"), layers=(1,)), key)
    np.testing.assert_array_equal(leaf(alone, "v_proj")["a"], leaf(both, "v_proj")["a"])


def test_padding_and_trimming_are_inverse(model: Callable[..., Model]):
    config = model("qwen3").config
    lora = LoraConfig(rank=3, targets=("mlp", "k_proj", "down_proj"), layers=(0, 2))
    weights = random_adapter(config, lora, 6)
    padded = jax.tree.map(np.asarray, pad_rank(weights, 8))
    for target in lora.targets:
        a, b = leaf(padded, target)["a"], leaf(padded, target)["b"]
        assert a.shape[-1] == b.shape[-2] == 8 and a.shape[:-1] == leaf(weights, target)["a"].shape[:-1]
        assert not np.any(a[..., 3:]) and not np.any(b[..., 3:, :])
    jax.tree.map(np.testing.assert_array_equal, trim_rank(padded, 3), weights)
    jax.tree.map(np.testing.assert_array_equal, pad_rank(weights, 3), weights)
    key = jax.random.key(0)
    jax.tree.map(
        np.testing.assert_array_equal,
        init_adapter(config, lora, key, padded_rank=8),
        pad_rank(init_adapter(config, lora, key), 8),
    )


@pytest.mark.parametrize("targets", [("mlp",), tuple(LINEAR)], ids=["mlp", "linear"])
def test_padding_a_rank_changes_no_logit(targets: tuple[str, ...], model: Callable[..., Model]):
    """More terms, all exact zeros; a product may only be summed in another order, which is worth 1e-6 at unit scale."""
    made = model("qwen3")
    lora = LoraConfig(rank=3, targets=targets, layers=LAYERS, alpha=2.0)
    weights = random_adapter(made.config, lora, 7)
    found = adapted_logits(made, lora, pad_rank(weights, 8))
    np.testing.assert_allclose(found, adapted_logits(made, lora, weights), rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("targets", "layers", "rule"),
    [(("mlp",), (2,), optax.sgd(0.1, momentum=0.9)), (("mlp", "q_proj"), (1, 2), optax.adam(1e-2))],
    ids=["sgd", "adam"],
)
def test_padded_ranks_never_move_and_never_matter(
    targets: tuple[str, ...], layers: tuple[int, ...], rule: Any, model: Callable[..., Model]
):
    """DESIGN.md, idea 2, from a real start (B = 0) over ten steps of a loss that is random but for its shape."""
    made, key = model("llama3-new-schema"), jax.random.key(8)
    lora = LoraConfig(rank=3, targets=targets, layers=layers)
    cut, positions = Cut.of(made.config, lora), counted(TOKENS)
    features = below(made.config, made.params, cut, TOKENS, positions)
    upper = upper_weights(made.config, made.params, cut)
    wanted = jax.random.normal(key, (*TOKENS.shape, made.config.hidden_size))

    @compiled()
    def step(weights: Any, state: Any, upper: Any, features: Any) -> Any:
        def loss(weights: Any) -> jax.Array:
            hidden = run_upper(made.config, upper, cut, features, positions, scaled(weights, 2.0))
            return jnp.mean((hidden - wanted) ** 2)

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = rule.update(gradient, state)
        return optax.apply_updates(weights, updates), state, value

    def train(weights: Any) -> tuple[Any, list[float]]:
        state, losses = jax.tree.map(np.zeros_like, rule.init(weights)), []
        for _ in range(10):
            weights, state, value = step(weights, state, upper, features)
            losses.append(float(value))
        return weights, losses

    start = init_adapter(made.config, lora, key)
    alone, losses = train(start)
    alone, padded = (jax.tree.map(np.asarray, x) for x in (alone, train(pad_rank(start, 8))[0]))
    assert losses[-1] < losses[0]
    for target in targets:
        a, b = leaf(padded, target)["a"], leaf(padded, target)["b"]
        assert not np.any(a[..., 3:]) and not np.any(b[..., 3:, :])
        assert np.abs(leaf(alone, target)["b"]).max() > 1e-3
    # The order of a sum may differ with the width: 1e-7 of a gradient a step. Adam divides a gradient by its own size,
    # so the smallest ones carry relatively more of it: hence 1e-5 after steps that move the weights by up to 0.1.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5), trim_rank(padded, 3), alone)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": -1}, "rank is -1"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"targets": ("qkv_proj",)}, "'qkv_proj' is unknown; allowed are mlp, q_proj"),
        ({"targets": ()}, "targets is ()"),
        ({"targets": ("mlp", "mlp")}, "twice"),
        ({"layers": (-1,)}, "layers.0 is -1"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"init": "kaiming"}, "init is 'kaiming'"),
        ({"droppout": 0.1}, "no setting 'droppout'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings: dict[str, Any], says: str):
    with pytest.raises(UserError) as error:
        LoraConfig(**settings)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rank": 65}, "lora rank is 65, but mlp of this model is only 64 wide"),
        ({"rank": 49, "targets": ("q_proj", "k_proj")}, "k_proj of this model is only 48 wide"),
        ({"layers": (1, 4)}, "[1, 4], but the model's layers are 0 to 3"),
        ({"layers": ()}, "layers are []"),
        ({"targets": ("mlp", "q_proj")}, "set `layers`"),
    ],
)
def test_what_does_not_fit_a_model_is_one_sentence(settings: dict[str, Any], says: str):
    config, lora = DecoderConfig.from_hf(tiny.CASES["qwen3"]), LoraConfig(**settings)
    for use in (lora.check, lambda config: init_adapter(config, lora, jax.random.key(0))):
        with pytest.raises(UserError) as error:
            use(config)
        assert says in str(error.value) and "\n" not in str(error.value)


def test_the_widest_rank_fits():
    config = DecoderConfig.from_hf(tiny.CASES["qwen3"])
    for target, widest in (("mlp", 64), ("k_proj", 48), ("q_proj", 64), ("down_proj", 64)):
        lora = LoraConfig(rank=widest, targets=(target,), layers=(0,))
        fresh = jax.eval_shape(lambda key, lora=lora: init_adapter(config, lora, key), jax.random.key(0))
        assert leaf(fresh, target)["a"].shape[-1] == widest


def test_a_rank_cannot_be_padded_to_less_than_it_is(model: Callable[..., Model]):
    weights = random_adapter(model("qwen3").config, LoraConfig(rank=3), 9)
    with pytest.raises(ValueError, match=r"3.*2|2.*3"):
        pad_rank(weights, 2)
