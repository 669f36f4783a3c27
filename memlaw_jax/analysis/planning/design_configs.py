"""A proposed sweep as configs that `memlaw sweep` runs."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from memlaw_jax.analysis.planning.design import SweepDesign
from memlaw_jax.errors import UserError

_PILOT = "pilot.yaml"
_CHECK = "Set model, task, lora and optim to those of the sweep that this one continues."


def configs(
    design: SweepDesign,
    *,
    model: str = "embedded",
    task: Mapping[str, Any] | None = None,
    rates: Mapping[int, float] | None = None,
) -> dict[str, str]:
    """YAML texts by file name. Each is a full grid, so a design whose corner is cut by saturation takes several.

    `model` and `task` are those of the sweep to come; without a task it is long context, or PhoneBook where the law's
    cells had several samples. `rates`, one a rank (`pilot_rates`), replaces the one rate for all and drops the pilot.
    All the sweep's configs can share one results folder. Raises `UserError` when `rates` lacks a rank.
    """
    texts = {} if rates else {_PILOT: _pilot_text(design, model, task)}
    by_rank = {rank: design.recipe.learning_rate for rank in design.ranks} | dict(rates or {})
    if rates and (missing := [rank for rank in design.ranks if rank not in rates]):
        listed = ", ".join(map(str, design.ranks))
        raise UserError(f"rates has no learning rate for rank {missing[0]}; give one for each of {listed}")
    parts = _grids(design, by_rank)
    names = ["sweep.yaml"] if len(parts) == 1 else [f"sweep_{k}.yaml" for k in range(1, len(parts) + 1)]
    for k, (name, (ranks, lengths, rate)) in enumerate(zip(names, parts, strict=True), 1):
        which = f", part {k} of {len(parts)}" if len(parts) > 1 else ""
        head = (
            f"A sweep for an interval of {design.width_alpha:.3g} on α{which}: {len(ranks) * len(lengths)} of "
            f"{len(design.cells)} cells, each with {design.seeds} seed{'s' if design.seeds > 1 else ''}."
        )
        shared = "All parts go into one folder. " if len(parts) > 1 else ""
        run = f"memlaw sweep {name} --out runs/design"
        texts[name] = _text(
            design, [head, f"{shared}{_CHECK}", f"  {run}"], model=model, task=task, lengths=lengths, ranks=ranks,
            seeds=range(design.seeds), rates=[rate],
        )  # fmt: skip
    return texts


def _grids(design: SweepDesign, rates: Mapping[int, float]) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """The design's cells as full grids: (ranks, lengths, learning rate), disjoint, and as few as lengths allow."""
    by_ranks: dict[tuple[int, ...], list[int]] = {}
    for length in design.lengths:
        by_ranks.setdefault(tuple(r for r in design.ranks if (r, length) in set(design.cells)), []).append(length)
    parts = []
    for ranks, lengths in by_ranks.items():
        for rate in dict.fromkeys(rates[rank] for rank in ranks):
            parts.append((tuple(rank for rank in ranks if rates[rank] == rate), tuple(lengths), rate))
    return parts


def _pilot_text(design: SweepDesign, model: str, task: Mapping[str, Any] | None) -> str:
    pilot = design.pilot
    head = [
        "A pilot for the learning rate, before the sweep: one rate for all ranks would mix capacity with effective "
        "learning rate. The best rate of each rank is that of the lowest final loss; between ranks it is interpolated "
        "in ln r (memlaw_jax.analysis.planning.design_pilot.pilot_rates).",
        _CHECK,
        f"  memlaw sweep {_PILOT} --out runs/pilot",
    ]
    return _text(
        design, head, model=model, task=task, lengths=[pilot.length], ranks=pilot.ranks, seeds=[0], rates=pilot.rates
    )


def _text(
    design: SweepDesign,
    head: Iterable[str],
    *,
    model: str,
    task: Mapping[str, Any] | None,
    lengths: Iterable[int],
    ranks: Iterable[int],
    seeds: Iterable[int],
    rates: Iterable[float],
) -> str:
    recipe = design.recipe
    many = recipe.samples is not None and recipe.samples > 1
    task = task or ({"kind": "phonebook"} if many else {"kind": "long_context", "ratio": 1.0})
    steps = {"steps": recipe.steps} if recipe.steps else {"epochs": recipe.epochs} if recipe.epochs else {"steps": 400}
    optim = steps | ({"batch_size": recipe.batch_size} if recipe.batch_size else {})
    listed = [_decimal(rate) for rate in rates]
    # JSON is YAML too, and quotes what needs it. One rate stays in `optim`, where a person looks for it.
    inner = ", ".join(f"{key}: {value}" for key, value in optim.items())
    single = f", learning_rate: {listed[0]}" if len(listed) == 1 else ""
    comment = [f"# {line}" for text in head for line in (textwrap.wrap(text, 116) if text[0] != " " else [text])]
    return "\n".join([
        *comment,
        f"model: {json.dumps(model, ensure_ascii=False)}",
        f"task: {json.dumps(dict(task), ensure_ascii=False)}",
        f"lengths: {list(lengths)}",
        f"ranks: {list(ranks)}",
        f"seeds: {list(seeds)}",
        *([f"learning_rates: [{', '.join(listed)}]"] if len(listed) > 1 else []),
        "lora: {targets: [mlp], init: paper}",
        f"optim: {{{inner}{single}}}",
        "",
    ])  # fmt: skip


def _decimal(rate: float) -> str:
    """Without an exponent: YAML takes 1e-05 for a word."""
    digits = max(2 - math.floor(math.log10(rate)), 1)
    text = f"{rate:.{digits}f}".rstrip("0")
    return text + "0" if text.endswith(".") else text
