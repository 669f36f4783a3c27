"""Our decoding beside transformers' own: greedy text with and without an adapter, and what sampling keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models import tiny  # noqa: E402

from memlaw_jax.readout.sampling import Sampling, kept_logits  # noqa: E402

if TYPE_CHECKING:
    from memlaw_jax.models import Adapter, Base

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("quick_compiler"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

TOKENS = 12  # past every window of the tiny models
RNG = np.random.default_rng(4)
PROMPTS = [RNG.integers(0, 95, length).tolist() for length in (1, 4, 9)]
ADAPTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "bypass": {"targets": ("mlp",), "rank": 3, "layers": (0, 2), "alpha": 2.0},
    "linear": {"targets": ("q_proj", "v_proj", "down_proj"), "rank": 3, "alpha": 1.0, "init": "rslora"},
}


def made(base: Base, settings: dict[str, Any]) -> Adapter | None:
    from models.forward import random_adapter

    from memlaw_jax.models import Adapter, LoraConfig

    if not settings:
        return None
    lora = LoraConfig(**settings)
    return Adapter(
        lora=lora,
        layers=lora.adapted_layers(base.config),
        weights=random_adapter(base.config, lora, 1),
        model=base.name,
        model_fingerprint=base.fingerprint,
    )


def generated(model: Any, prompt: list[int]) -> tuple[int, ...]:
    row = torch.tensor([prompt])
    found = model.generate(
        row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=TOKENS, eos_token_id=None,
        pad_token_id=0, use_cache=True,
    )  # fmt: skip
    return tuple(found[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", tiny.CASES)
def test_greedy_text_is_what_transformers_generates(
    name: str, checkpoint: Callable[[str], Base], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from memlaw_jax.interop.torch_hook import attach
    from memlaw_jax.readout import decode

    base, texts = checkpoint(name), set()
    model = AutoModelForCausalLM.from_pretrained(str(base.directory), dtype=torch.float32).eval()
    for kind, settings in ADAPTERS.items():
        adapter = made(base, settings)
        handle = adapter and attach(model, adapter.save(tmp_path / kind))
        want = [generated(model, prompt) for prompt in PROMPTS]
        assert decode(base, adapter, PROMPTS, tokens=TOKENS) == want
        texts.update(want)
        if handle:
            handle.remove()
    assert len(texts) >= 7  # the adapters say other things than the base


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 40, 200])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999, 1.0])
def test_sampling_keeps_what_transformers_keeps(temperature: float, top_k: int | None, top_p: float) -> None:
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    logits = 3 * np.random.default_rng(0).standard_normal((4, 97)).astype(np.float32)
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    scores = torch.tensor(logits)
    for warper in warpers:
        scores = warper(None, scores)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    found = np.stack([np.asarray(kept_logits(jnp.array(row), sampling)) for row in logits])
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(scores.numpy()))
    chances = torch.softmax(torch.tensor(found), dim=-1)
    np.testing.assert_allclose(chances, torch.softmax(scores, dim=-1), atol=1e-6)
