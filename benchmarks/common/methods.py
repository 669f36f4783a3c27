"""SFT against MemFT, rank by rank: what the two benchmarks of the paper's Table 2 share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from etils import epath

from common.given import Given, Part
from common.machine import without_places
from common.numbers import number
from common.table import Claim, Report, Verdict, scale_rows, verdict
from common.table_2 import Setting, fallen_back, rows
from memlaw_jax.analysis import (
    Methods,
    best_rates,
    compare_methods,
    describe_methods,
    describe_rates,
    methods_table,
    read_curves,
    read_frame,
)
from memlaw_jax.analysis.figures import draw_methods, draw_training_curves, save
from memlaw_jax.analysis.files import folder, write
from memlaw_jax.errors import UserError

CONTROL = "control"
RATES = "0.003,0.03"  # beside the 0.01 of the sweeps themselves
EARLY, LATE = "memft-sw", "memft-ot"  # said to lead at low and at high ranks
LONGER = "sft at twice the steps"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The control, of one seed."""
    parser.add_argument(
        "--control", action="store_true", help="also: are the leads a matter of the learning rate or of the steps?"
    )


def small_parts(given: Given, setting: Setting) -> list[Part]:
    """At the scales of the embedded base: a sweep a seed, which draws data, adapter and order, then the control's."""
    tiny = given.scale == "tiny"

    def part(place: str, seed: int, *changes: str) -> Part:
        drawn = [*(setting.tiny if tiny else []), *changes, f"task.seed={seed}", f"seeds=[{seed}]"]
        return Part(folder=place, config=given.sweep(f"memft_{setting.task}", drawn))

    made = [part(f"seed{seed}", seed) for seed in ([0] if tiny else [0, 1, 2])]
    if given.args.control:
        some = [] if tiny else setting.control
        steps = 2 * (made[0].config.optim.steps or 0)
        longer = ["methods=[sft]", f"optim.steps={steps}", f"learning_rates=[0.01,{RATES}]"]
        made.append(part(f"{CONTROL}/rates", 0, *some, f"learning_rates=[{RATES}]"))
        made.append(part(f"{CONTROL}/longer", 0, *some, *longer))
    return made


def no_control(given: Given) -> None:
    """The control is for the embedded base: it takes three times the runs."""
    if given.args.control:
        raise UserError("--control goes with --scale embedded; leave it out at --scale paper.")


def report(given: Given, parts: Sequence[Part], setting: Setting) -> Report:
    """Table 2, who is ahead of SFT, who leads at which ranks, and how training went."""
    place = folder(given.out)
    places = [given.out / part.folder for part in parts if not part.folder.startswith(CONTROL)]
    frame = read_frame(places)
    found = compare_methods(frame)
    averaged = frame if len(found.main) == 1 else _over_lengths(frame, setting.measure)
    whole = found if averaged is frame else compare_methods(averaged)
    figures, words = _curves(places, setting, place)
    sources = {"sources": [part.folder for part in parts]}
    details = {"methods": found.to_dict() | sources, "training_seconds": round(float(frame["seconds"].sum()))}
    table = methods_table(found)
    if whole is not found:
        details["over_lengths"] = whole.to_dict() | sources
        table += f"\n## Mean over the lengths\n\n```\n{describe_methods(whole)}\n```\n"
    if len(places) < len(parts):
        best, said = _control(given, places[0])
        details |= {"control": best.to_dict("records"), "control_words": said}
        table += "\n## Learning rate and compute, one seed\n\n" + "".join(f"- {line}\n" for line in said)
    return Report(
        rows=[*scale_rows(frame, setting.scale), *rows(given, frame, setting)],
        claims=[*_ahead(found, whole, setting), *_regimes(averaged, setting)],
        files=[
            write(place / "methods.md", table),
            *save(draw_methods(found, setting.task), place, "methods"),
            *figures,
        ],
        words=[*words, *fallen_back(given, setting)],
        details=details,
    )


def _over_lengths(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A row a method, rank and seed that has every length, as Table 2 averages; its length is the sum of theirs."""
    runs = frame.groupby(["task", "method", "rank", "seed"])
    kept = runs["length"].transform("nunique") == frame["length"].nunique()
    runs = frame[kept].groupby(["task", "method", "rank", "seed"])
    means = runs[[measure, "samples", "loss_initial", "loss_final"]].mean()
    return pd.concat([means, runs[["length", "token_visits"]].sum()], axis=1).reset_index()


def _ahead(found: Methods, whole: Methods, setting: Setting) -> list[Claim]:
    """Each method against SFT, over the ranks in transition."""
    claims = []
    for row in _of(whole.pooled, setting.measure):
        method = row["method"]
        twin = setting.twins.get(method, method)
        name = method if twin == method else f"{method} (the paper's {twin} here)"
        told = _difference(row)
        if whole is not found:
            each = [one for one in _of(found.pooled, setting.measure) if one["method"] == method]
            told += " " + " ".join(f"At ℓ = {one['length']}: {_difference(one)}" for one in each)
        claims.append(
            Claim(
                claim=f"{name} recalls more than sft",
                verdict=verdict(row["low"], row["high"], 0.0),
                evidence=f"{setting.words.capitalize()}, method − sft [95 % interval over seeds]: {told}",
            )
        )
    return claims


def _difference(row: Mapping[str, Any]) -> str:
    tally = f"{row['wins']} won, {row['ties']} tied, {row['losses']} lost of {row['pairs']} pairs of all ranks"
    if not row["ranks"]:
        return f"no rank in transition ({tally})."
    return f"{_over(row)} ({tally})."


def _points(row: Mapping[str, Any]) -> str:
    known = math.isfinite(row["low"])
    return number(100 * row["mean"], (100 * row["low"], 100 * row["high"]) if known else None)


def _regimes(runs: pd.DataFrame, setting: Setting) -> list[Claim]:
    """Whether SW leads over the lower half of the ranks in transition and OT over the upper half.

    By an interval over seeds for each half, so that no single rank is picked; a middle rank belongs to neither.
    """
    runs = runs[runs["method"].isin((EARLY, LATE))]
    if not set(runs["method"]) == {EARLY, LATE} <= set(setting.twins):
        return []

    def lead(ranks: Sequence[int]) -> dict[Any, Any]:
        (row,) = _of(compare_methods(runs[runs["rank"].isin(ranks)], reference=LATE).pooled, setting.measure)
        return row

    ranks = lead(sorted(set(runs["rank"])))["ranks"]
    half = len(ranks) // 2
    found: Verdict = "undecided"
    told = f"{len(ranks)} ranks in transition are too few."
    if half:
        low, high = lead(ranks[:half]), lead(ranks[-half:])
        told = f"{EARLY} − {LATE} [95 % interval over seeds]: {_over(low)}; {_over(high)}."
        if low["low"] > 0 and high["high"] < 0:
            found = "holds"
        elif low["high"] < 0 or high["low"] > 0:
            found = "does not hold"
    return [Claim(claim=f"{EARLY} leads at low ranks and {LATE} at high ranks", verdict=found, evidence=told)]


def _over(row: Mapping[str, Any]) -> str:
    return f"{_points(row)} points over ranks {', '.join(map(str, row['ranks']))} in transition, seeds: {row['seeds']}"


def _of(table: pd.DataFrame, measure: str) -> list[dict[Any, Any]]:
    return [] if table.empty else table[table["measure"] == measure].to_dict("records")


def _curves(places: Sequence[epath.Path], setting: Setting, out: epath.Path) -> tuple[list[epath.Path], list[str]]:
    """Loss and recall while training, a figure a length; in words why there are none."""
    try:
        curves = read_curves(places)
    except UserError as error:
        return [], [f"There are no figures of the training: {without_places(str(error))}."]
    written = []
    for length, mine in curves.groupby("length"):
        for column, name in (("loss", "convergence"), (setting.recall, setting.recall)):
            written += save(draw_training_curves(mine, column), out, f"{name}_l{length}")
    return written, []


def _control(given: Given, usual: epath.Path) -> tuple[pd.DataFrame, list[str]]:
    """Each method at the best rate of three, and SFT at twice the steps, in the cells that the control has."""
    rates, longer = (read_frame(given.out / CONTROL / name) for name in ("rates", "longer"))
    cells = set(zip(rates["rank"], rates["length"], strict=True))
    own = read_frame(usual)
    own = own[[cell in cells for cell in zip(own["rank"], own["length"], strict=True)]]
    best = best_rates([own, rates, longer.assign(method=LONGER)])
    return best, describe_rates(best, longer=LONGER)
