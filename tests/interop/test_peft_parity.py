"""The same logits as PEFT itself: our adapters loaded there, adapters trained there loaded here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memlaw_jax as ml
from memlaw_jax.interop import write_merged
from memlaw_jax.models import Base

from .conftest import Bases
from .lab import LINEAR, MOVED, TOKENS, TOLERANCE, logits, make, torch_logits, torch_model
from .test_peft_out import silence

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("quick_compiler"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]


def in_peft(base: Base, directory: Any, dtype: str = "float32") -> np.ndarray:
    """Logits of an adapter directory in PEFT, which must find a place for every tensor and miss none."""
    import peft

    model = torch_model(base.directory, dtype)
    loaded = peft.PeftModel.from_pretrained(model, str(directory))
    result = peft.set_peft_model_state_dict(loaded, peft.load_peft_weights(str(directory)))
    assert not result.unexpected_keys and not [key for key in result.missing_keys if "lora" in key]
    return torch_logits(loaded)


OURS: dict[str, dict[str, Any]] = {
    "every layer": {"rank": 3},
    "alpha": {"rank": 3, "init": "peft", "alpha": 1.5},
    "rslora": {"rank": 3, "init": "rslora", "alpha": 1.0},
    "some layers": {"rank": 3, "layers": (0, 2), "alpha": 4.0},
}


@pytest.mark.parametrize("case", OURS)
@pytest.mark.parametrize("name", ["qwen3", "llama3-old-schema", "qwen2"])
def test_peft_computes_our_logits(bases: Bases, tmp_path: Path, name: str, case: str) -> None:
    base = bases(name)
    adapter = make(base, targets=LINEAR, **OURS[case])
    want = logits(base, adapter)
    assert np.abs(want - logits(base)).max() > MOVED
    found = in_peft(base, ml.to_peft(adapter, base, tmp_path))
    np.testing.assert_allclose(found, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("init", ["paper", "rslora"])
def test_peft_computes_our_logits_of_unequal_ranks(qwen3: Base, tmp_path: Path, init: str) -> None:
    """Patterns of rank and alpha, and modules that are left out."""
    adapter = make(qwen3, targets=LINEAR, rank=3, alpha=2.0, init=init)
    for layer, target, rank in ((0, "q_proj", 1), (1, "q_proj", 2), (2, "o_proj", 0), (3, "up_proj", 0)):
        silence(adapter, target, layer, rank)
    for layer in range(4):
        silence(adapter, "down_proj", layer, 2)
    found = in_peft(qwen3, ml.to_peft(adapter, qwen3, tmp_path))
    np.testing.assert_allclose(found, logits(qwen3, adapter), rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def trained() -> Callable[..., np.ndarray]:
    """`trained(base, directory, **LoraConfig)`: PEFT's logits after a few steps of AdamW, saved by PEFT itself."""
    import peft
    import torch

    def run(base: Base, directory: Path, short: bool = False, **settings: Any) -> np.ndarray:
        torch.manual_seed(0)
        model = peft.get_peft_model(torch_model(base.directory), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
        tokens = torch.tensor(TOKENS).long()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
        for _ in range(4):
            optimiser.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            optimiser.step()
        if short:  # the numbers that are saved are the ones that are run
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
        model.eval().save_pretrained(str(directory))
        return torch_logits(model.float())

    return run


THEIRS: dict[str, dict[str, Any]] = {
    "every linear layer": {"r": 3, "lora_alpha": 4, "target_modules": "all-linear"},
    "patterns": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 1},
        "alpha_pattern": {"v_proj": 2, r"layers\.[02]\.mlp\.down_proj": 3},
    },
    "rslora": {"r": 3, "lora_alpha": 4, "use_rslora": True, "target_modules": list(LINEAR), "lora_dropout": 0.1},
    "rslora with patterns": {
        "r": 3,
        "lora_alpha": 4,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"v_proj": 1},
    },
    "some layers": {"r": 3, "lora_alpha": 6, "target_modules": list(LINEAR), "layers_to_transform": [0, 2]},
    "other targets in every layer": {
        "r": 3,
        "target_modules": ["model.layers.0.mlp.up_proj", "model.layers.2.self_attn.o_proj", "layers.2.mlp.up_proj"],
        "init_lora_weights": "gaussian",
    },
    "an expression": {"r": 3, "target_modules": r".*\.(0|2)\.(self_attn|mlp)\.\w+_proj", "init_lora_weights": False},
}


@pytest.mark.parametrize("case", THEIRS)
def test_what_peft_trained_gives_its_logits_here(
    qwen3: Base, tmp_path: Path, trained: Callable[..., np.ndarray], case: str
) -> None:
    want = trained(qwen3, tmp_path, **THEIRS[case])
    adapter = ml.from_peft(tmp_path, qwen3)
    assert np.abs(want - logits(qwen3)).max() > MOVED
    np.testing.assert_allclose(logits(qwen3, adapter), want, rtol=0, atol=TOLERANCE)
    again = in_peft(qwen3, ml.to_peft(adapter, qwen3, tmp_path / "again"))
    np.testing.assert_allclose(again, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama3-old-schema", "qwen2"])
def test_other_families_and_bfloat16_files(
    bases: Bases, tmp_path: Path, trained: Callable[..., np.ndarray], name: str
) -> None:
    want = trained(bases(name), tmp_path, short=True, r=3, lora_alpha=4, target_modules=list(LINEAR))
    adapter = ml.from_peft(tmp_path, bases(name))
    np.testing.assert_allclose(logits(bases(name), adapter), want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shard_bytes", [4 << 30, 100_000])
@pytest.mark.parametrize("name", ["qwen3", "llama3-old-schema", "qwen3-tied"])
def test_transformers_computes_our_logits_from_merged_weights(
    bases: Bases, tmp_path: Path, name: str, shard_bytes: int
) -> None:
    """Tied and untied, one file and shards."""
    base = bases(name)
    adapter = make(base, targets=LINEAR, rank=3, alpha=1.0)
    write_merged(base, adapter, tmp_path, shard_bytes=shard_bytes)
    found = torch_logits(torch_model(tmp_path))
    np.testing.assert_allclose(found, logits(base, adapter), rtol=0, atol=TOLERANCE)
    assert np.abs(found - logits(base)).max() > MOVED


def test_merged_bfloat16_weights_load_as_such(qwen3: Base, tmp_path: Path) -> None:
    """The same bfloat16 numbers in torch and here, run in float32; and what `auto` makes of the directory."""
    import torch
    import transformers

    base = ml.load_base(qwen3.directory, "bfloat16")
    write_merged(base, make(base, targets=LINEAR, rank=3, alpha=1.0), tmp_path)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    found = torch_logits(torch_model(tmp_path))
    np.testing.assert_allclose(found, logits(ml.load_base(tmp_path)), rtol=0, atol=TOLERANCE)
