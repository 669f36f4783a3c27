"""Causal grouped-query attention, in the form that suits the platform.

| form | where `auto` takes it | memory |
|---|---|---|
| `cudnn` | NVIDIA GPUs from Ampere on, bfloat16 and float16, heads in steps of 8 to 128 | no scores |
| `splash` | TPUs, one a program, bfloat16 and float32, heads in steps of 64 | no scores |
| `xla` | everywhere else, short rows, rows with a mask | all scores of a block of queries (`attention_blocked`) |
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from memlaw_jax.errors import UserError
from memlaw_jax.models.attention_blocked import attend_blocked, block_size, in_reach, on_one_device
from memlaw_jax.models.attention_splash import attend_splash
from memlaw_jax.sharding import by_hand, platform

KERNEL_TOKENS = 128  # what a kernel computes at least; shorter rows are quick in any form


def attend(
    q: Float[Array, "B T H d"],
    k: Float[Array, "B T K d"],
    v: Float[Array, "B T K d"],
    valid: Bool[Array, "B T"] | None = None,
    window: int | None = None,
    kind: str = "auto",
) -> Float[Array, "B T H d"]:
    """Softmax attention of each token over itself and those before it, at most `window` of them, scaled by 1/√d.

    `valid` says which tokens are no padding. It is needed only where padding comes first (causality hides the rest),
    which is no training step, so the kernels go without it and `xla` serves whatever `kind` says. Scores and softmax
    are float32. Gradients are first-order.

    Raises:
      UserError: a kernel is asked for by name that has no form for this dtype or width of head.
    """
    tokens, width = q.shape[1], q.shape[-1]
    if kind == "auto":
        kind = _choice(tokens, width, q.dtype)
    elif (why := _refusal(kind, width, q.dtype)) is not None:
        raise UserError(why)
    if kind in KERNELS and valid is None:
        return by_hand(partial(KERNELS[kind], window=window), q, k, v)
    return attend_blocked(q, k, v, valid, window, block_size(tokens))


def _attend_cudnn(
    q: Float[Array, "B T H d"], k: Float[Array, "B T K d"], v: Float[Array, "B T K d"], window: int | None
) -> Float[Array, "B T H d"]:
    """cuDNN's flash attention, whose gradients want even numbers of tokens: one at the right end harms none before."""
    tokens = q.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, tokens % 2), (0, 0), (0, 0))) for x in (q, k, v))
    # jax counts the keys to the left of the query, Hugging Face the window with the query in it
    reach = None if window is None else (window - 1, 0)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=reach, implementation="cudnn")
    return out[:, :tokens]


KERNELS = {"cudnn": _attend_cudnn, "splash": attend_splash}


def check_attention(kind: str, width: int, dtype: Any, device: jax.Device) -> None:
    """Refuses a form of attention that `device` lacks for heads of this width and dtype.

    Raises:
      UserError: it does; what to do instead is said.
    """
    if (why := _refusal(kind, width, dtype)) is not None:
        raise UserError(why)
    if kind == "cudnn" and not _has_cudnn(device):
        needs = "an NVIDIA GPU of compute capability 8.0 or higher"
    elif kind == "splash" and device.platform != "tpu":
        needs = "a TPU"
    else:
        return
    raise UserError(f"attention is {kind!r}, which needs {needs}, and this is a {device.device_kind}; choose 'auto'.")


def _refusal(kind: str, width: int, dtype: Any) -> str | None:
    """Why a kernel cannot take heads of this width and dtype, if it cannot."""
    dtypes, step, widest = {
        "cudnn": (("bfloat16", "float16"), 8, 128),
        "splash": (("bfloat16", "float32"), 64, 256),
    }.get(kind, ((jnp.dtype(dtype).name,), 1, width))
    if (name := jnp.dtype(dtype).name) not in dtypes:
        return f"attention is {kind!r}, which needs dtype {' or '.join(dtypes)}, not {name}; choose one or 'auto'."
    if width % step or width > widest:
        return (
            f"attention is {kind!r}, which needs a head_dim that is a multiple of {step} up to {widest}, not {width}; "
            "choose 'auto'."
        )
    return None


def _choice(tokens: int, width: int, dtype: Any) -> str:
    """What `auto` is here."""
    device = jax.devices()[0]
    kind = {"gpu": "cudnn", "tpu": "splash"}.get(platform(), "xla")
    if tokens < KERNEL_TOKENS or _refusal(kind, width, dtype) is not None:
        return "xla"
    if kind == "cudnn":
        return kind if _has_cudnn(device) else "xla"
    # The compiler can neither split a Mosaic kernel over devices, which is for `by_hand` to do within a mesh, nor
    # multiply bfloat16 in it as if it were float32.
    exact = getattr(jax.config, "jax_default_matmul_precision", None) in ("highest", "float32", "high", "tensorfloat32")
    placed = on_one_device() or jax.sharding.get_abstract_mesh().manual_axes
    return kind if kind == "xla" or (placed and not exact) else "xla"


def _has_cudnn(device: jax.Device) -> bool:
    """Whether cuDNN's flash attention runs on a device: compute capability 8.0; AMD's are named otherwise."""
    major = str(getattr(device, "compute_capability", "")).partition(".")[0]
    return device.platform == "gpu" and major.isdigit() and int(major) >= 8


def attend_cached(
    q: Float[Array, "B H d"],
    k: Float[Array, "B K d"],
    v: Float[Array, "B K d"],
    cached_k: Float[Array, "B K d C"],
    cached_v: Float[Array, "B K C d"],
    positions: Int[Array, " B"],
    window: int | None = None,
) -> Float[Array, "B H d"]:
    """The same attention of one token a row, over itself and a cache whose slot i holds the token at position i.

    What stands in the slots from its own position on is not seen. Cached keys lie as the product wants them: a CPU
    takes two to six times as long where it must transpose them.
    """
    batch, heads, width = q.shape
    rows = q.reshape(batch, k.shape[1], -1, width) * width**-0.5
    own = jnp.einsum("bkqd,bkd->bkq", rows, k, preferred_element_type=jnp.float32)[..., None]
    scores = jnp.einsum("bkqd,bkdc->bkqc", rows, cached_k, preferred_element_type=jnp.float32)
    distance = positions[:, None] - jnp.arange(cached_k.shape[-1])
    seen = ((distance > 0) & in_reach(distance, window))[:, None, None]
    scores = jnp.concatenate([own, jnp.where(seen, scores, jnp.finfo(jnp.float32).min)], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    mixed = weights[..., :1] * v[:, :, None] + jnp.einsum("bkqc,bkcd->bkqd", weights[..., 1:], cached_v)
    return mixed.reshape(batch, heads, width)
