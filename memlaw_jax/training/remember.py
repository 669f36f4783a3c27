"""One adapter that recalls the user's records: a sweep of one cell at a time, the rank doubled until it fits."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, DecoderConfig, LoraConfig, load_adapter
from memlaw_jax.paths import as_path, reading
from memlaw_jax.readout import recall
from memlaw_jax.tasks import Task, pad
from memlaw_jax.training.frozen import Frozen
from memlaw_jax.training.logging import Watcher
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.sweep import ADAPTERS, run_sweep
from memlaw_jax.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    from memlaw_jax.analysis import Law

ADAPTER = "adapter"
PARAMETERS_A_TOKEN = 8  # where doubling begins without a law; fewer have recalled nothing that we tried
STILL_FALLING = 0.9  # of the loss a fifth of the steps earlier
MOSTLY = 0.9  # share of the tokens above ½ that leaves a few stubborn ones


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """The adapter that was kept (also in `directory`), the record of its training, and those of all ranks tried."""

    adapter: Adapter
    directory: epath.Path
    record: dict[str, Any]
    tried: list[dict[str, Any]]
    loss_history: Any


def remember(
    base: Base,
    task: Task,
    out: epath.PathLike,
    *,
    lora: LoraConfig,
    rank: int | None = None,
    method: Any = "memft-ot",
    optim: OptimConfig,
    seed: int = 0,
    law: Law | None = None,
    watch: Watcher | None = None,
) -> Remembered:
    """Trains until every answer token has p > ½ or the steps are spent; the same call goes on with a stopped one.

    Args:
      rank: None tries ranks one after the other, each twice the last, until one recalls everything. It begins where
        `law` predicts that nothing of the loss is left, or without a law where the adapter has 8 parameters a token.
      lora: everything but the rank.

    Raises:
      UserError: data or settings that do not fit the model, or a folder that belongs to something else.
    """
    ranks = [rank] if rank is not None else list(_doubling(base, task, lora, law))
    records: list[dict[str, Any]] = []
    frozen = functools.cache(lambda: Frozen(base, lora))
    for wanted in ranks:
        config = SweepConfig(
            task=task,
            model=base.name,
            dtype=base.dtype,
            ranks=(wanted,),
            methods=(method,),
            seeds=(seed,),
            lora=lora,
            optim=optim,
            stop="certain",
            adapters=True,
            lanes=1,
        )
        records += run_sweep(base, config, out, watch, frozen).records
        if records[-1]["exact_match"] == 1.0:
            break
    kept = max(records, key=lambda record: (record["exact_match"], record["token_accuracy"], -record["rank"]))
    directory = as_path(out)
    if not (directory / ADAPTERS / kept["cell_id"]).exists():
        raise UserError(f"{directory} has lost the adapter {kept['cell_id']} of a finished rank; choose another --out.")
    adapter = load_adapter(directory / ADAPTERS / kept["cell_id"])
    adapter.save(directory / ADAPTER)
    return Remembered(
        adapter=adapter,
        directory=directory / ADAPTER,
        record=kept,
        tried=records,
        loss_history=_loss_history(directory, kept["cell_id"]),
    )


def _doubling(base: Base, task: Task, lora: LoraConfig, law: Law | None) -> Iterator[int]:
    """1, 2, 4, … from the first that may fit, and at last the width of the narrowest target."""
    widest = widest_rank(base.config, lora)
    encoded = pad(task.samples(base.tokenizer, None, max_length=base.config.max_positions), pad_id=base.pad_id)
    loss = recall(base, None, encoded).loss if law else 0.0
    rank, fits = 1, False
    while rank < widest:
        if law:
            fits = fits or law.predict(rank, encoded.answer_tokens) >= loss
        else:
            wide = dataclasses.replace(lora, rank=rank)
            fits = fits or wide.effective_parameters(base.config) >= PARAMETERS_A_TOKEN * encoded.answer_tokens
        if fits:
            yield rank
        rank *= 2
    yield widest


def widest_rank(config: DecoderConfig, lora: LoraConfig) -> int:
    """The width of the narrowest target, above which a rank gains nothing."""
    return min(min(config.linear_shape(target)) for target in lora.targets)


def _loss_history(directory: epath.Path, cell: str) -> Any:
    import numpy as np

    from memlaw_jax.results.store import TOKENS

    path = directory / TOKENS / f"{cell}.npz"
    with reading(path):
        data = path.read_bytes()
    with np.load(io.BytesIO(data)) as arrays:
        return arrays["loss_history"]


def advice(found: Remembered, widest: int) -> list[str]:
    """What would help an adapter that does not recall everything, the likeliest first, each with its evidence.

    Args:
      widest: see `widest_rank`.
    """
    record, highest = found.record, max(record["rank"] for record in found.tried)
    if record["exact_match"] == 1.0:
        return []
    if record["stopped"] == "diverged":
        return [f"a smaller --learning-rate than {record['learning_rate']:g}: the training diverged"]
    hints = []
    losses, fifth = found.loss_history, len(found.loss_history) // 5
    if fifth:
        before, after = float(losses[-2 * fifth : -fifth].mean()), float(losses[-fifth:].mean())
        if after < STILL_FALLING * before:
            hints.append(f"more --steps than {record['steps']}: the loss was still falling, from {before:.3g} nats to "
                         f"{after:.3g} over the last two fifths (into another --out)")  # fmt: skip
    below = round((1 - record["fraction_above_half"]) * record["length"])
    if record["method"] == "sft" and record["fraction_above_half"] >= MOSTLY:
        hints.append(f"--method memft-ot: it trains on nothing but tokens that are below ½, here {below} of "
                     f"{record['length']}")  # fmt: skip
    if highest < widest:
        share = record["effective_parameters"] / record["rank"] * highest / record["length"]
        hints.append(f"a higher --rank than {highest}, which has {share:.2g} parameters an answer token")
    else:
        hints.append(f"more --layers or --targets: rank {highest} is as wide as {' and '.join(record['targets'])} "
                     "can use")  # fmt: skip
    if record["samples"] == 1:
        hints.append("shorter records: greedy decoding is lost after the first wrong token of one")
    return hints
