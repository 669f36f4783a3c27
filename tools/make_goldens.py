"""Writes `tests/models/goldens.npz`: what transformers computes on the tiny checkpoints of `tests/models/tiny.py`.

Run by hand where torch is installed, from the repository's root:

    python tools/make_goldens.py

The file holds logits `[30, 97]` at the real positions of a right-padded and of a left-padded batch per checkpoint,
computed in float32 with eager attention on the CPU, those of the right-padded batch in bfloat16 too, and the versions
that made it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from models import tiny  # noqa: E402

OUT = ROOT / "tests" / "models" / "goldens.npz"


def reference(directory: Path) -> dict[str, np.ndarray]:
    """Logits at real positions, `{"right": [P, V], "left": [P, V], "right-bfloat16": [P, V]}`."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    tokens, valid = tiny.right_padded()
    right = model(torch.tensor(tokens).long(), attention_mask=torch.tensor(valid).long()).logits.numpy()[valid]
    tokens, positions, valid = tiny.left_padded()
    left = model(
        torch.tensor(tokens).long(),
        attention_mask=torch.tensor(valid).long(),
        position_ids=torch.tensor(positions).long(),
    ).logits.numpy()[valid]
    tokens, valid = tiny.right_padded()
    short = model.to(torch.bfloat16)(torch.tensor(tokens).long(), attention_mask=torch.tensor(valid).long())
    return {"right": right, "left": left, "right-bfloat16": short.logits.float().numpy()[valid]}


def main() -> None:
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    for name in tiny.CASES:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            found = reference(tiny.write(Path(folder), name))
        print(
            f"{name:20} logits' standard deviation {found['right'].std():.2f}, largest {abs(found['right']).max():.1f}"
        )
        arrays |= {f"{name}/{side}": logits for side, logits in found.items()}
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    np.savez_compressed(OUT, made_by=np.array(versions), **arrays)
    print(f"wrote {OUT} ({OUT.stat().st_size / 1e3:.0f} kB), made by {versions}")


if __name__ == "__main__":
    main()
