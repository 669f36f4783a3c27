"""Pre-trains the embedded base model and writes it, in Hugging Face layout, with its card's numbers.

    pip install torch==2.13.0 transformers tokenizers
    python tools/pretrain_embedded.py --minutes 70 --out memlaw_jax/models/embedded

A Qwen3 decoder of 5.2 M parameters on the sources of CPython's library (see `corpus.py`). PyTorch does this one job
because its compiled CPU step is 2.5 times as fast as XLA's for training all weights at this size (2 cores,
5900 against 2400 tokens/s); the result is an ordinary checkpoint. Muon for matrices, AdamW for the rest; the learning
rate follows the share of the time budget that is spent, so a slow machine sees fewer tokens, not a cut-off schedule.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from corpus import read_files, split
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCAB, WINDOW, BATCH = 2048, 512, 16
END, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits stay single, as in Qwen, so that a phone number has ten tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=4096)


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All texts, each behind an end-of-text token, as one array of ids."""
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = tokenizer._tokenizer.encode_batch(texts, add_special_tokens=False)
    return np.concatenate([np.array([end, *item.ids], np.int64) for item in encoded])


@torch.no_grad()
def bits_per_byte(model: Qwen3ForCausalLM, stream: np.ndarray, text_bytes: int) -> float:
    """Code length of the held-out stream over its bytes; every token is predicted from 256 to 512 tokens before it."""
    nats, stride = 0.0, WINDOW // 2
    for start in range(0, len(stream) - 1, stride):
        chunk = torch.from_numpy(stream[start : start + WINDOW + 1])[None]
        logits = model(input_ids=chunk[:, :-1]).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits, chunk[0, 1:], reduction="none")
        nats += loss[0 if start == 0 else WINDOW - stride :].sum().item()
        if start + WINDOW + 1 >= len(stream):
            break
    return nats / math.log(2) / text_bytes


def optimizers(model: Qwen3ForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        (torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1), 0.02),
        (torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0), 4e-3),
    ]


def write(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, held: list[str], report: dict
) -> None:
    """The whole directory, through a neighbour, so that a reader never sees half of it."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    (fresh / "heldout.txt").write_text("".join(held), encoding="utf-8")
    (fresh / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    for kept in ("README.md", "LICENSE.python"):
        if (out / kept).exists():
            shutil.copy(out / kept, fresh / kept)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=70)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--save-every", type=float, default=15, help="minutes between checkpoints")
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    train_texts, held_texts = split(read_files())
    tokenizer = train_tokenizer(train_texts)
    train, held = token_stream(tokenizer, train_texts), token_stream(tokenizer, held_texts)
    held_bytes = "".join(held_texts).encode()
    xz = 8 * len(lzma.compress(held_bytes, preset=9)) / len(held_bytes)
    train_bytes = sum(len(text.encode()) for text in train_texts)
    print(f"train {len(train):,} tokens ({train_bytes:,} bytes), held out {len(held):,} tokens "
          f"({len(held_bytes):,} bytes), xz -9 {xz:.4f} bits/byte", flush=True)  # fmt: skip

    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=True, max_position_embeddings=4096,
        rope_theta=10_000.0, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    compiled = torch.compile(model)
    steppers = optimizers(model)
    begun, saved, step, running, spent = time.time(), time.time(), 0, 8.0, 0.0
    while (share := (time.time() - begun) / (60 * args.minutes)) < 1:
        rate = min(1.0, (step + 1) / 50) * min(1.0, (1 - share) / 0.6)  # warm-up, plateau, linear decay
        starts = rng.integers(0, len(train) - WINDOW, BATCH)
        batch = torch.from_numpy(np.stack([train[s : s + WINDOW] for s in starts]))
        loss = compiled(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in steppers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, running = step + 1, 0.98 * running + 0.02 * loss.item()
        spent = time.time() - begun
        last = spent >= 60 * args.minutes
        if step % 20 == 0:
            print(
                f"step {step} {spent / 60:.1f} min loss {running:.4f} {step * WINDOW * BATCH / spent:.0f} tok/s",
                flush=True,
            )
        if last or time.time() - saved > 60 * args.save_every:
            saved = time.time()
            report = {
                "date": time.strftime("%Y-%m-%d"), "minutes": round(spent / 60, 1), "steps": step,
                "tokens": step * WINDOW * BATCH, "parameters": sum(p.numel() for p in model.parameters()),
                "train_bytes": train_bytes, "held_out_bytes": len(held_bytes),
                "held_out_tokens": len(held) - len(held_texts),
                "xz_9_bits_per_byte": round(xz, 4),
                "held_out_bits_per_byte": round(bits_per_byte(model, held, len(held_bytes)), 4),
                "torch": torch.__version__, "finished": last,
            }  # fmt: skip
            print(json.dumps(report), flush=True)
            write(model, tokenizer, args.out, held_texts, report)


if __name__ == "__main__":
    main()
