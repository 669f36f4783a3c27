"""The roads of the makespan benchmark: the same cells by `ml.sweep` and by the released procedure."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from makespan import released_records
from pytorch_reference import released
from pytorch_reference.evaluate import adapted_recall, recall
from pytorch_reference.protocol import OPTIMIZER, SCHEDULE, Settings
from throughput_sides import torch_start

import memlaw_jax as ml
from memlaw_jax.models import Base
from memlaw_jax.tasks import pad
from memlaw_jax.training import Cell

HURRY = {"ours": {"stop": "recalled", "skip": "saturated"}, "plain": {}}
# One core gains nothing from a second lane, which would compute on when its cells are done; and the host looks often
# enough to end cells early.
ONE_CORE = {"lanes": 1, "steps_per_dispatch": 20}


def travel(road: str, plan: dict[str, Any], out: Path) -> None:
    """Runs all cells of a road, or those of `released` that are not done."""
    if road == "released":
        by_the_release(plan, out)
    else:
        by_us(road, plan, out)


def by_us(road: str, plan: dict[str, Any], out: Path) -> None:
    """The grid in one process; seconds from the loaded model to the last record."""
    shutil.rmtree(out / road, ignore_errors=True)  # what was begun: its seconds are one piece
    base = ml.load_base(plan["model"])
    begun, own = time.perf_counter(), time.process_time()
    results = ml.sweep(
        base,
        ml.LongContext(ratio=1.0),
        ranks=plan["ranks"],
        lengths=plan["lengths"],
        seeds=[plan["seed"]],
        optim=ml.OptimConfig(steps=plan["steps"], learning_rate=plan["learning_rate"]),
        out=out / road,
        **ONE_CORE,
        **HURRY[road],
    )
    seconds = time.perf_counter() - begun
    told = {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - own, 2),
        "cells": len(results.records),
        "skipped": len(results.skipped),
        "training_seconds": round(sum(record["seconds"] for record in results.records), 2),
        "steps": sum(record["steps"] for record in results.records),
    }
    (out / f"{road}.json").write_text(json.dumps(told) + "\n")
    print(f"{road}: {told['cells']} cells run and {told['skipped']} skipped in {seconds:.1f} s", flush=True)


def by_the_release(plan: dict[str, Any], out: Path) -> None:
    """One cell after the other, each written when it is done."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    base = ml.load_base(plan["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(base.directory), dtype=torch.float32, attn_implementation="sdpa"
    )
    model = model.eval().requires_grad_(False)
    done, place = released_records(out), out / "released" / "results.jsonl"
    place.parent.mkdir(exist_ok=True)
    place.write_text("".join(json.dumps(record) + "\n" for record in done))  # without a torn last line
    known = {(record["rank"], record["length"]) for record in done}
    for length in plan["lengths"]:
        for rank in plan["ranks"]:
            if (rank, length) in known:
                continue
            record = released_cell(model, base, rank, length, plan)
            with place.open("a") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
            loss = math.nan if record["loss_final"] is None else record["loss_final"]
            print(f"released: rank {rank}, length {length}: {loss:.3f} nats, {record['seconds']} s", flush=True)


def released_cell(model: Any, base: Base, rank: int, length: int, plan: dict[str, Any]) -> dict[str, Any]:
    """Trains and evaluates one adapter as the release does, from our start; its record, with all of its seconds."""
    begun, own = time.perf_counter(), time.process_time()
    encoded = pad(ml.LongContext(ratio=1.0).samples(base.tokenizer, length), pad_id=base.pad_id)
    cell = Cell(lora=ml.LoraConfig(rank=rank), seed=plan["seed"], learning_rate=plan["learning_rate"])
    settings = Settings(learning_rate=cell.learning_rate, dropout=0.0, state_dtype=torch.float32, seed=cell.seed)
    initial = recall(model, encoded)
    rows = [np.arange(len(encoded.tokens))] * plan["steps"]
    trained = released.train(model, encoded, rows, torch_start(base, cell), settings)
    final = adapted_recall(model, encoded, trained.weights, settings)
    finite = bool(np.isfinite(trained.objective).all() and math.isfinite(final.loss))
    return {
        "implementation": "pytorch released",
        "model": plan["model"],
        "task": "long_context",
        "method": "sft",
        "rank": rank,
        "length": encoded.answer_tokens,
        "seed": plan["seed"],
        "learning_rate": plan["learning_rate"],
        "schedule": SCHEDULE,
        "optimizer": OPTIMIZER,
        "dropout": 0.0,
        "steps": plan["steps"],
        "stopped": "budget" if finite else "diverged",
        "loss_initial": initial.loss,
        "loss_final": final.loss if math.isfinite(final.loss) else None,
        "token_accuracy": final.token_accuracy,
        "exact_match": final.exact_match,
        "seconds": round(time.perf_counter() - begun, 3),
        "cpu_seconds": round(time.process_time() - own, 3),
    }
