"""The report's parts: a law with its figures and tables, capacity, single tokens, methods side by side."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from memlaw_jax.analysis.comparison.methods import compare_methods
from memlaw_jax.analysis.comparison.methods_words import describe_methods
from memlaw_jax.analysis.figures.agreement import draw_agreement
from memlaw_jax.analysis.figures.collapse import draw_collapse
from memlaw_jax.analysis.figures.curves import draw_curves
from memlaw_jax.analysis.figures.decoupling import draw_decoupling
from memlaw_jax.analysis.figures.ellipse import draw_ellipse
from memlaw_jax.analysis.figures.extrapolation import draw_extrapolation
from memlaw_jax.analysis.figures.failing import draw_failures, draw_order
from memlaw_jax.analysis.figures.heat import METRICS, draw_heat
from memlaw_jax.analysis.figures.methods import draw_methods
from memlaw_jax.analysis.figures.positions import draw_positions
from memlaw_jax.analysis.figures.profiles import draw_profiles
from memlaw_jax.analysis.figures.recall_vs_p import draw_recall_vs_p
from memlaw_jax.analysis.figures.residuals import draw_residuals
from memlaw_jax.analysis.figures.rivals import draw_rivals
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.words import describe
from memlaw_jax.analysis.report import tables
from memlaw_jax.analysis.report.captions import FIGURES
from memlaw_jax.analysis.report.pictures import Picture, Pictures
from memlaw_jax.analysis.report.tables import Table
from memlaw_jax.analysis.signs import signs
from memlaw_jax.analysis.tokens.microscope import microscope
from memlaw_jax.analysis.tokens.tokens import read_tokens
from memlaw_jax.analysis.tokens.words import describe_microscope
from memlaw_jax.errors import UserError

_WARNING = "Warning: "
_UNPRINTABLE = re.compile(" “\ufffd+”")  # a token that is part of a character


@dataclass(frozen=True, kw_only=True)
class Number:
    """A key number: its sign, value, interval and what it is."""

    sign: str
    value: str
    interval: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Formula:
    """The numbers of the law as they stand in its formula."""

    constant: str
    alpha: str
    beta: str
    offset: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section under one heading, in the order of the page."""

    id: str
    title: str
    law: Formula | None = None
    words: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()


def finding(law: Law, pictures: Pictures, frame: pd.DataFrame, ln_vocab: float | None, id_: str) -> Part:
    """The law in words and numbers, and its portrait."""
    words, cautions = split(describe(law, ln_vocab))
    told_elsewhere = {words[0], *_rivals(law)[1:]}
    return Part(
        id=f"{id_}finding",
        title="What was found",
        law=Formula(
            constant=f"{law.C:.4g}",
            alpha=f"{law.alpha:.3f}",
            beta=signs(f"{-law.beta:.3f}"),
            offset=f"{'+' if law.b >= 0 else '−'} {abs(law.b):.3g}",
        ),
        words=tuple(line for line in words if line not in told_elsewhere),
        warnings=cautions,
        numbers=tuple(_numbers(law)),
        pictures=pictures.paired([(draw_curves(frame, law, ln_vocab), *FIGURES["law"])]),
    )


def _numbers(law: Law) -> Iterator[Number]:
    meanings = {
        "alpha": ("α", "exponent of the rank"),
        "beta": ("β", "exponent of the length"),
        "b": ("b", "nats, independent of both"),
        "c_ref": ("C_ref", f"nats at rank {law.rank_ref:.3g}, {law.length_ref:.0f} tokens"),
    }
    for name, (sign, meaning) in meanings.items():
        span = ""
        if law.draws:
            low, high = law.interval(name)
            span = signs(f"{low:.3f} to {high:.3f}")
        yield Number(sign=sign, value=signs(f"{getattr(law, name):.3f}"), interval=span, meaning=meaning)
    share = f"{100 * law.rmse_relative:.1f} % of ΔL's range"
    yield Number(sign="RMSE", value=f"{law.rmse:.3g}", interval=share, meaning="nats, on cell means")
    ranks, lengths = ({getattr(cell, name) for cell in law.used} for name in ("rank", "length"))
    yield Number(
        sign="cells",
        value=f"{len(law.used)} of {len(law.cells)}",
        interval=f"{len(law.dropped)} left out",
        meaning=f"{len(ranks)} ranks × {len(lengths)} lengths",
    )


def fit(law: Law, pictures: Pictures, frame: pd.DataFrame, id_: str) -> Part:
    """Does the law fit: collapse, agreement, residuals."""
    shown = [
        (draw_collapse(law), *FIGURES["collapse"]),
        (draw_agreement(frame, law), *FIGURES["agreement"]),
        (draw_residuals(law), *FIGURES["residuals"]),
    ]
    return Part(id=f"{id_}fit", title="How well it fits", pictures=pictures.paired(shown))


def certainty(law: Law, pictures: Pictures, id_: str) -> Part:
    """How sure: intervals side by side, tests, profiles, ellipse, and what that means beyond the data."""
    draws = [(law.profiles, draw_profiles, "profiles"), (law.draws, draw_ellipse, "ellipse")]
    shown = [(draw(law), *FIGURES[name]) for there, draw, name in draws if there]
    shown.append((draw_extrapolation(law), *FIGURES["extrapolation"]))
    told = (tables.intervals(law), *([tables.tests(law)] if law.tests else []))
    return Part(id=f"{id_}certainty", title="How sure that is", tables=told, pictures=pictures.paired(shown))


def rivalry(law: Law, pictures: Pictures, id_: str) -> Part | None:
    """Other forms for the same cells."""
    if law.rivals is None:
        return None
    return Part(
        id=f"{id_}rivals",
        title="Rival laws",
        words=_rivals(law),
        pictures=pictures.paired([(draw_rivals(law), *FIGURES["rivals"])]),
        tables=(tables.rivals(law),),
        folded=(tables.rival_parameters(law),),
    )


def _rivals(law: Law) -> tuple[str, ...]:
    return tuple(map(signs, law.rivals.words())) if law.rivals else ()


def capacity(law: Law, pictures: Pictures, frame: pd.DataFrame, id_: str) -> Part:
    """Bits and tokens that the adapters hold."""
    from memlaw_jax.analysis.capacity.capacity import measure_capacity
    from memlaw_jax.analysis.capacity.words import describe_capacity
    from memlaw_jax.analysis.figures.capacity import draw_capacity

    head: dict[str, Any] = {"id": f"{id_}capacity", "title": "Capacity"}
    try:
        found = measure_capacity(frame, law)
    except UserError as problem:
        return Part(**head, words=(f"Capacity could not be measured: {sentence(problem)}",))
    words, cautions = split(describe_capacity(found))
    alike = found.ranks["exposures"].nunique() == 1  # told once, in the words
    columns = {name: head for name, head in _CAPACITY.items() if not (alike and name == "exposures")}
    return Part(
        **head,
        words=words,
        warnings=cautions,
        pictures=pictures.paired([(draw_capacity(found), *FIGURES["capacity"])]),
        tables=(tables.of_frame(found.ranks, "Capacity by rank", columns),),
    )


_CAPACITY = {
    "rank": "rank",
    "effective_parameters": "parameters",
    "capacity_bits": "most bits held",
    "capacity_low": "95 % low",
    "capacity_high": "95 % high",
    "at_length": "at length",
    "lower_bound": "a lower bound",
    "bits_per_parameter": "bits per parameter",
    "bits_per_byte": "bits per byte",
    "exposures": "exposures",
    "recalled_length": "longest recalled",
    "recalled_low": "recall ends at or after",
    "recalled_high": "and before",
    "tokens_per_parameter": "tokens per parameter",
}


def maps(pictures: Pictures, frame: pd.DataFrame, ln_vocab: float | None, id_: str) -> Part:
    """The measured metrics over rank × length."""
    shown = [
        (draw_heat(frame, metric, ln_vocab), *FIGURES[metric.name])
        for metric in METRICS
        if metric.column in frame.columns and frame[metric.column].notna().any()
    ]
    return Part(id=f"{id_}maps", title="The sweep, cell by cell", pictures=pictures.paired(shown))


def everything(law: Law, frame: pd.DataFrame, id_: str) -> Part:
    """All cells, the fit card, and the runs that diverged."""
    lost = frame.attrs.get("diverged", ())
    listed = ", ".join(f"rank {run.get('rank')} × {run.get('length')} tokens" for run in lost)
    said = (f"Diverged, and so not in any cell: {listed}.",) if lost else ()
    return Part(
        id=f"{id_}cells", title="All cells", words=said, tables=(tables.cells(law),), folded=(tables.card(law),)
    )


def phase(paths: Any, pictures: Pictures) -> Part:
    """Single tokens, where the sweep kept their probabilities."""
    head: dict[str, Any] = {"id": "phase", "title": "Phase transition at p = ½"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torn last line was told when the results were read
            tokens = read_tokens(paths)
    except UserError as problem:
        return Part(**head, words=(f"No per-token arrays to look at: {sentence(problem)}",))
    found = microscope(tokens)
    said = describe_microscope(found).replace(", in microscope.json", "; `memlaw microscope` lists them all")
    words, cautions = split(_UNPRINTABLE.sub("", said))
    shown = [(draw_recall_vs_p(found), *FIGURES["recall_vs_p"])]
    if found.samples["first_below"].notna().any():
        shown.append((draw_order(found), *FIGURES["order"]))
    for method in tokens.methods:
        who = f", {method}" if len(tokens.methods) > 1 else ""
        drawn = [(draw_positions(tokens, method, threshold=found.threshold), "positions")]
        drawn.append((draw_decoupling(found, method), "decoupling"))
        if found.samples.loc[found.samples["method"] == method, "first_failure"].notna().any():
            drawn.append((draw_failures(found, method), "failures"))
        shown += [(made, FIGURES[name][0] + who, FIGURES[name][1]) for made, name in drawn]
    return Part(**head, words=words, warnings=cautions, pictures=pictures.paired(shown))


def side_by_side(frame: pd.DataFrame, pictures: Pictures) -> Part:
    """Methods against plain SFT, or the first by name, in pairs of equal compute."""
    head: dict[str, Any] = {"id": "methods", "title": "Methods side by side"}
    names = sorted(str(name) for name in frame["method"].dropna().unique())
    try:
        found = compare_methods(frame, reference="sft" if "sft" in names else names[0])
    except UserError as problem:
        return Part(**head, words=(f"The methods could not be paired: {sentence(problem)}",))
    words, cautions = split(describe_methods(found))
    title, caption = FIGURES["methods"]
    tasks = dict.fromkeys(found.means["task"])
    shown = [(draw_methods(found, task), f"{title}, {str(task).replace('_', ' ')}", caption) for task in tasks]
    return Part(**head, words=words, warnings=cautions, pictures=pictures.paired(shown))


def split(said: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Plain lines, those of a list indented as they were, and those that warn without the word."""
    lines = [signs(line.rstrip()) for line in said.splitlines() if line.strip()]
    cautions = (line.removeprefix(_WARNING) for line in lines if line.startswith(_WARNING))
    plain = tuple(line for line in lines if not line.startswith(_WARNING))
    return plain, tuple(line[0].upper() + line[1:] for line in cautions)


def sentence(problem: UserError) -> str:
    """What a mistake says, with one full stop."""
    return f"{problem}".rstrip(".") + "."
