"""The kernels of GPUs and TPUs, as far as a machine without either can tell: what they compute, what is compiled."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, DecoderConfig, load_base
from memlaw_jax.models.attention import KERNEL_TOKENS, _choice, attend, check_attention
from memlaw_jax.models.attention_splash import attend_splash, block_size

from . import tiny
from .conftest import Model
from .forward import decode
from .test_attention import assert_same, draw, naive, with_gradients

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.mark.parametrize("tokens, heads, groups, window", [(130, 2, 1, None), (200, 1, 1, 70)])
def test_splash_computes_the_definition(tokens: int, heads: int, groups: int, window: int | None) -> None:
    """The kernel's own Python, two adapters at once; rows are filled up to whole blocks."""
    x = draw(2, 1, tokens, heads=heads, groups=groups, width=64)
    found = jax.jit(with_gradients(jax.vmap(lambda q, k, v: attend_splash(q, k, v, window, interpret=True))))(*x)
    assert_same(found, jax.jit(with_gradients(jax.vmap(lambda q, k, v: naive(q, k, v, None, window))))(*x))


@pytest.mark.parametrize("tokens", [1, 128, 129, 1000, 4097, 10_000])
def test_splash_fills_rows_up_by_little(tokens: int) -> None:
    block = block_size(tokens)
    assert block % 128 == 0
    assert -tokens % block <= max(127, tokens / 8)


def lowered_for_cuda(monkeypatch: pytest.MonkeyPatch, tokens: int, window: int | None, adapters: int) -> str:
    """StableHLO of outputs and gradients of many adapters; cuDNN's version is asked of cuDNN, which is not here."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
    wide, narrow = (jax.ShapeDtypeStruct((adapters, 1, tokens, n, 128), jnp.bfloat16) for n in (32, 8))
    run = with_gradients(jax.vmap(lambda q, k, v: attend(q, k, v, None, window, "cudnn")))
    return jax.jit(run).trace(wide, narrow, narrow, wide).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("tokens, window", [(10_000, None), (9_999, 4096)])
def test_cudnn_has_no_scores(monkeypatch: pytest.MonkeyPatch, tokens: int, window: int | None) -> None:
    text = lowered_for_cuda(monkeypatch, tokens, window, adapters=16)
    assert set(re.findall(r"__cudnn\$fmha\w+", text)) == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert "CAUSAL" in text and f"sliding_window_length\\22: {window or 0}" in text
    assert not re.search(r"(9999|10000)x(9999|10000)", text)


TPU = """
import json, os, re
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from memlaw_jax.models.attention import attend

topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4")
here = NamedSharding(Mesh(topology.devices[:1], ("one",)), PartitionSpec())
wide, narrow = (jax.ShapeDtypeStruct((16, 1, 10_000, n, 128), jnp.bfloat16) for n in (32, 8))

def run(q, k, v, g):
    out, back = jax.vjp(jax.vmap(lambda q, k, v: attend(q, k, v, None, None, "splash")), q, k, v)
    return out, back(g)

made = jax.jit(run, in_shardings=here, out_shardings=here).lower(wide, narrow, narrow, wide).compile()
text, memory = made.as_text(), made.memory_analysis()
print(json.dumps({
    "kernels": len(re.findall("custom_call_target=.tpu_custom_call", text)),
    "squares": len(re.findall(r"(10000|10240),(10000|10240)[,\\]]", text)),
    "temporary": memory.temp_size_in_bytes,
}))
"""


def test_the_tpu_compiler_takes_splash(child_environment: dict[str, str], python: str) -> None:
    """10,000 tokens, 16 adapters, Qwen3-8B's heads: forward, dq and dkv kernels, and room for no square of scores."""
    pytest.importorskip("libtpu")
    # as it ships: what makes other tests quick and exact, Mosaic has not for bfloat16
    environment = {key: value for key, value in child_environment.items() if not key.startswith("JAX_D")} | {
        "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }  # fmt: skip
    ran = subprocess.run([python, "-c", TPU], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["kernels"] == 3 and found["squares"] == 0
    scores = 16 * 32 * 10_000**2 * 2  # bytes in bfloat16
    assert found["temporary"] < scores / 10


class Device:
    """What is asked of a device."""

    def __init__(self, platform: str, capability: str | None = None) -> None:
        self.platform, self.device_kind = platform, f"some {platform}"
        if capability is not None:
            self.compute_capability = capability


@pytest.mark.parametrize(
    "platform, capability, tokens, width, dtype, want",
    [
        ("cpu", None, 10_000, 128, "bfloat16", "xla"),
        ("gpu", "8.0", 10_000, 128, "bfloat16", "cudnn"),
        ("gpu", "12.0", 500, 64, "float16", "cudnn"),
        ("gpu", "7.5", 500, 64, "float16", "xla"),
        ("gpu", "gfx90a", 500, 64, "float16", "xla"),
        ("gpu", "9.0", 500, 128, "float32", "xla"),
        ("gpu", "9.0", 500, 20, "bfloat16", "xla"),
        ("gpu", "9.0", KERNEL_TOKENS - 1, 128, "bfloat16", "xla"),
        ("tpu", None, 500, 128, "bfloat16", "splash"),
        ("tpu", None, 500, 32, "bfloat16", "xla"),
        ("tpu", None, KERNEL_TOKENS - 1, 128, "bfloat16", "xla"),
    ],
)
def test_auto(monkeypatch: Any, platform: str, capability: Any, tokens: int, width: int, dtype: str, want: str) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "devices", lambda: [Device(platform, capability)])
    with jax.default_matmul_precision("highest"):
        assert _choice(tokens, width, jnp.dtype(dtype)) == ("xla" if want == "splash" else want)
    with jax.default_matmul_precision("default"):
        assert _choice(tokens, width, jnp.dtype(dtype)) == want
        monkeypatch.setattr(jax, "device_count", lambda: 8)  # cuDNN's call can be split over devices, Mosaic's cannot
        assert _choice(tokens, width, jnp.dtype(dtype)) == ("xla" if want == "splash" else want)


@pytest.mark.parametrize(
    "kind, width, dtype, device, says",
    [
        ("cudnn", 128, "float32", Device("gpu", "9.0"), "needs dtype bfloat16 or float16, not float32"),
        ("cudnn", 20, "bfloat16", Device("gpu", "9.0"), "multiple of 8 up to 128, not 20"),
        ("cudnn", 128, "bfloat16", Device("gpu", "7.5"), "compute capability 8.0 or higher, and this is a some gpu"),
        ("cudnn", 128, "bfloat16", Device("cpu"), "this is a some cpu"),
        ("splash", 128, "float16", Device("tpu"), "not float16"),
        ("splash", 32, "bfloat16", Device("tpu"), "multiple of 64 up to 256, not 32"),
        ("splash", 128, "bfloat16", Device("cpu"), "needs a TPU, and this is a some cpu"),
    ],
)
def test_what_cannot_work_is_refused(kind: str, width: int, dtype: str, device: Any, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        check_attention(kind, width, dtype, device)
    assert "\n" not in str(refused.value) and repr(kind) in str(refused.value)
    for fine in ("auto", "xla"):
        check_attention(fine, width, dtype, device)


def test_a_kernel_by_name_is_never_another_form() -> None:
    q, k, v, _ = draw(1, 8, width=16)
    with pytest.raises(UserError, match="not float32"):
        attend(q, k, v, kind="cudnn")
    with pytest.raises(UserError, match="not 16"):
        attend(q, k, v, kind="splash")


@pytest.mark.parametrize("kind", ["cudnn", "splash"])
def test_kernels_leave_masks_to_xla(kind: str) -> None:
    q, k, v, _ = draw(2, 20, width=64, dtype=jnp.bfloat16)
    valid = np.arange(20) >= np.array([[0], [7]])
    np.testing.assert_array_equal(attend(q, k, v, valid, 9, kind), attend(q, k, v, valid, 9))


def test_it_is_no_part_of_a_checkpoint(tiny_dir: Path, base: Base, model: Callable[..., Model]) -> None:
    made = model("qwen3")
    plain = DecoderConfig.from_hf(made.config.to_hf())
    assert plain.attention == "auto"
    chosen = load_base(str(tiny_dir), attention="xla")
    assert chosen.config.attention == "xla" and base.config.attention == "auto"
    assert chosen.config.to_hf() == base.config.to_hf()
    assert chosen.fingerprint == base.fingerprint
    with pytest.raises(UserError, match="attention"):
        DecoderConfig.from_hf(made.config.to_hf() | {"attention": "xla"})
    with pytest.raises(UserError, match=r"attention is 'flash'; allowed are auto, xla, cudnn, splash\."):
        load_base(str(tiny_dir), attention="flash")
    with pytest.raises(UserError, match="not float32"):
        load_base(str(tiny_dir), attention="cudnn")


def test_the_decoder_takes_it(model: Callable[..., Model]) -> None:
    """A form by name reaches every block: what cannot work is refused, what can says the same."""
    made = model("mistral")
    tokens, _ = tiny.right_padded()
    named = dataclasses.replace(made.config, attention="xla")
    np.testing.assert_array_equal(decode(named, made.params, tokens), decode(made.config, made.params, tokens))
    with pytest.raises(UserError, match="cudnn"):
        decode(dataclasses.replace(made.config, attention="cudnn"), made.params, tokens)
