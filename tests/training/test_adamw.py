"""AdamW in PyTorch's arithmetic: float32, and the release's bfloat16, rounded where torch rounds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from memlaw_jax.models import Base, LoraConfig
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Cell, OptimConfig, adamw

from . import lab

STEPS, PEAK = 60, 1e-2
SHORT = ml_dtypes.bfloat16


def optim(state: Any = "bfloat16", **more: Any) -> OptimConfig:
    return OptimConfig(steps=STEPS, learning_rate=PEAK, state=state, **more)


def weights() -> dict[str, Any]:
    """Two layers of A and B, B at zero as in a fresh adapter, in bfloat16."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-0.5, 0.5, (2, 12, 3)).astype(SHORT)
    return {"mlp": {"a": a, "b": np.zeros((2, 3, 12), SHORT)}}


def gradients() -> list[dict[str, Any]]:
    """Some above the clip and some below, and one of zeros."""
    rng = np.random.default_rng(1)
    sizes = rng.uniform(0.01, 1.0, STEPS) * (np.arange(STEPS) != 7)
    return [jax.tree.map(lambda x, s=s: (s * rng.standard_normal(x.shape)).astype(SHORT), weights()) for s in sizes]


def run(config: OptimConfig) -> list[dict[str, Any]]:
    """Our weights after each step."""
    now, moments = adamw.init(config.state, weights())
    step = jax.jit(adamw.update, static_argnums=0)
    seen = []
    for i, gradient in enumerate(gradients()):
        rate = config.rate(jnp.float32(PEAK), jnp.int32(i), jnp.int32(STEPS))
        now, moments = step(config, gradient, moments, now, rate)
        seen.append(jax.device_get(now))
    return seen


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_operation_is_rounded_once(decay: float):
    """Against NumPy, which rounds whenever a result is stored as bfloat16."""
    config = optim(weight_decay=decay)
    now = weights()
    first, second = jax.tree.map(np.zeros_like, now), jax.tree.map(np.zeros_like, now)

    def short(x: Any) -> np.ndarray:
        return np.asarray(x, np.float32).astype(SHORT)

    def wide(x: Any) -> np.ndarray:
        return np.asarray(x).astype(np.float32)

    for i, (gradient, found) in enumerate(zip(gradients(), run(config), strict=True)):
        leaves = [layer for leaf in jax.tree.leaves(gradient) for layer in leaf]
        norms = wide(short([np.sqrt((wide(leaf) ** 2).sum()) for leaf in leaves]))
        total = short(np.sqrt((norms**2).sum()))
        factor = min(wide(short(1.0 / wide(short(wide(total) + np.float32(1e-6))))), np.float32(1))
        rate = np.float32(PEAK * (1 - i / STEPS))
        corrections = [np.float32(1 - beta ** (i + 1)) for beta in (0.9, 0.999)]
        for name in ("a", "b"):
            g = wide(short(wide(gradient["mlp"][name]) * factor))
            w, m, v = (wide(tree["mlp"][name]) for tree in (now, first, second))
            if decay:
                w = wide(short(w * np.float32(1 - rate * decay)))
            m = wide(short(m + np.float32(0.1) * (g - m)))
            v = wide(short(wide(short(np.float32(0.999) * v)) + np.float32(0.001) * g * g))
            below = wide(short(wide(short(wide(short(np.sqrt(v))) / np.sqrt(corrections[1]))) + np.float32(1e-8)))
            w = short(w - rate / corrections[0] * m / below)
            now["mlp"][name], first["mlp"][name], second["mlp"][name] = w, short(m), short(v)
            # A rounding that is a near tie may fall the other way: one unit in the last of 8 bits, in few weights.
            off = wide(found["mlp"][name]) != wide(w)
            assert off.mean() < 0.02
            np.testing.assert_allclose(wide(found["mlp"][name]), wide(w), rtol=2**-7, atol=2**-14)
            now["mlp"][name] = found["mlp"][name]


def test_the_second_moment_does_not_decay():
    """0.999 is nearer to 1 than to the next bfloat16 below: what makes the release's arithmetic its own."""
    config = optim(clip=None)
    now, moments = adamw.init(config.state, weights())
    ones, zeros = (jax.tree.map(lambda x, v=v: np.full(x.shape, v, SHORT), weights()) for v in (1.0, 0.0))
    _, moments = adamw.update(config, ones, moments, now, jnp.float32(0.0))
    before = moments.second
    for _ in range(50):
        _, moments = adamw.update(config, zeros, moments, now, jnp.float32(0.0))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), moments.second, before))


@pytest.mark.parity
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_the_update_is_torchs(state: str, decay: float):
    """torch.optim.AdamW after clip_grad_norm_, with a linear schedule.

    bfloat16 weights are equal bit for bit but for near ties, in which torch's loops contract multiply-adds differently
    (none of them fell the other way where this was written); float32 ones to a few units in the last place.
    """
    import torch

    config = optim(state, weight_decay=decay)
    start, dtype = weights(), getattr(torch, state)
    layers = [(name, i) for name in ("a", "b") for i in range(2)]

    def there(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array.astype(np.float32)).to(dtype)

    parameters = [torch.nn.Parameter(there(start["mlp"][name][i])) for name, i in layers]
    theirs = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, lambda step: 1 - step / STEPS)
    same = []
    for gradient, found in zip(gradients(), run(config), strict=True):
        for parameter, (name, i) in zip(parameters, layers, strict=True):
            parameter.grad = there(gradient["mlp"][name][i])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        theirs.step()
        schedule.step()
        for parameter, (name, i) in zip(parameters, layers, strict=True):
            want, ours = parameter.detach().float().numpy(), found["mlp"][name][i].astype(np.float32)
            same += (want == ours).ravel().tolist()
            tolerance = {"rtol": 2**-6, "atol": 2**-12} if state == "bfloat16" else {"rtol": 2e-6, "atol": 2e-7}
            np.testing.assert_allclose(ours, want, **tolerance)
    assert state == "float32" or np.mean(same) > 0.998


def test_a_cell_trains_in_bfloat16_and_ends_as_alone(base: Base, sequence: Encoded):
    cells = [Cell(lora=LoraConfig(rank=rank), seed=rank, learning_rate=PEAK, name=f"r{rank}") for rank in (1, 4)]
    config = OptimConfig(steps=20, state="bfloat16")
    both = lab.run(base, sequence, cells, optim=config)
    (alone,) = lab.run(base, sequence, cells[:1], optim=config).values()
    for leaf, other in zip(jax.tree.leaves(both["r1"].weights), jax.tree.leaves(alone.weights), strict=True):
        assert leaf.dtype == SHORT
        # Rounded to 8 bits, so that the tiny differences of another batch show as none or as a whole unit.
        np.testing.assert_allclose(leaf.astype(np.float32), other.astype(np.float32), rtol=2**-5, atol=2e-3)
    assert both["r4"].final.loss < both["r4"].initial.loss - 0.5
    wide = lab.run(base, sequence, cells, optim=OptimConfig(steps=20))
    assert abs(both["r4"].final.loss - wide["r4"].final.loss) < 0.2
