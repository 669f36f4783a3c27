"""A comparison in plain words, and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from memlaw_jax.analysis.law.words import cautions

if TYPE_CHECKING:
    from memlaw_jax.analysis.comparison.compare import Comparison, LawPair, Overall

_SIGNS = {"alpha": "α", "beta": "β", "b": "b (nats)", "c_ref": "c_ref (nats)"}
_LISTED = 8


def describe_comparison(found: Comparison) -> str:
    """The verdict, what may explain it, the laws of both, and what was left out."""
    lines = [f"A: {found.a}", f"B: {found.b}", verdict(found), *_details(found), *found.notes]
    for pair in found.laws:
        lines += ["", f"{_over(pair)}:", *(f"  {line}" for line in _law_lines(pair))]
    left = [text for name, cells in (("A", found.only_a), ("B", found.only_b)) if (text := _left(name, cells))]
    return "\n".join([*lines, *([""] if left else []), *left])


def verdict(found: Comparison) -> str:
    """Which side ends lower, by how much and how surely, and where they differ most."""
    final, cells = found.overall["final"], found.cells
    over = f"over {_count(final.cells, 'matched cell')}"
    if final.rms == 0:
        return f"A and B end at exactly the same loss in {_count(final.cells, 'matched cell')}."
    share = cells["final_b"].mean() / cells["final_a"].mean() - 1 if cells["final_a"].mean() > 0 else None
    relative = "" if share is None else f", {100 * share:+.2g} % of A's mean final loss".replace("-", "−")
    side = "lower" if final.mean < 0 else "higher"
    if final.low is None or final.high is None:
        text = (
            f"B ends {abs(final.mean):.3g} nats per answer token {side} on average {over}{relative} "
            "(an interval needs 5 cells)."
        )
    elif final.low <= 0 <= final.high:
        within = max(-final.low, final.high)
        text = (
            f"A and B cannot be told apart: B − A = {signed(final.mean)} {_span(final.low, final.high)} nats per "
            f"answer token on average {over}, at most {within:.3g} nats either way{relative}."
        )
    else:
        text = (
            f"B ends {abs(final.mean):.3g} nats per answer token {side} on average {_span(final.low, final.high)} "
            f"{over}{relative}."
        )
    largest = f"The largest difference is {signed(final.largest)} nats at {_cell(*final.largest_at)}"
    if final.cells == 1:
        return text
    return f"{text} {largest}; RMS {final.rms:.3g} nats; B is lower in {final.lower} and higher in {final.higher}."


def table(found: Comparison) -> str:
    """The whole comparison as Markdown: verdict, a row a matched cell, laws, cells without a partner."""
    cells = found.cells
    lines = ["# Comparison", "", f"- A: `{found.a}`", f"- B: `{found.b}`", ""]
    lines += [verdict(found), "", *(f"- {line}" for line in [*_details(found), *found.notes])]
    lines += ["", "## Matched cells", "", "Final loss and ΔL in nats per answer token; [95 % interval].", ""]
    several = cells["method_b"].nunique() > 1
    recall: list[str] = [name for name in ("exact_match", "token_accuracy") if name in found.overall]
    titles = [*(["method"] if several else []), "rank", "length", "runs A, B", "final A", "final B", "B − A"]
    titles += ["ΔL: B − A", *(f"{name.replace('_', ' ')} A, B (%)" for name in recall)]
    lines += _grid(titles, (_row(row, several, recall) for row in cells.to_dict("records")))
    for pair in found.laws:
        lines += ["", f"## {_over(pair)}", ""]
        if pair.a or pair.b:
            lines += _grid(["", "A", "B", "B − A"], _law_rows(pair))
        lines += ["", *(f"- {line}" for line in _remarks(pair))]
    if found.only_a or found.only_b:
        lines += ["", "## Unmatched cells", ""]
        listed = [{"in": name, **cell} for name, side in (("A", found.only_a), ("B", found.only_b)) for cell in side]
        titles = ["in", *(["method"] if several else []), "rank", "length", "runs", "reason"]
        lines += _grid(titles, ([str(cell[title]) for title in titles] for cell in listed))
    return "\n".join(lines).rstrip("\n") + "\n"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def _details(found: Comparison) -> list[str]:
    overall, cells = found.overall, found.cells
    said = []
    if (known := cells["final_low"].notna()).any():
        clear = int(((cells["final_low"] > 0) | (cells["final_high"] < 0)).sum())
        pairs = int((cells["paired"] & known).sum())
        how = {0: "Welch's", int(known.sum()): "paired by seed"}.get(pairs, f"paired by seed in {pairs}, else Welch's")
        of = int(known.sum())
        said.append(f"The 95 % interval from the spread of seeds ({how}) is clear of zero in {clear} of {of} cells.")
    start = overall["initial"]
    if start.rms > 0:
        said.append(
            f"The bases start {signed(start.mean)} nats apart on average (B − A), at most {signed(start.largest)}; "
            f"ΔL differs by {signed(overall['delta'].mean)}{_interval(overall['delta'])} on average."
        )
    for name in ("exact_match", "token_accuracy"):
        if name in overall:
            one = overall[name]
            said.append(f"{name.replace('_', ' ').capitalize()}: {_points(one)} on average over {one.cells} cells.")
    return said


def _points(one: Overall) -> str:
    span = "" if one.low is None or one.high is None else f" {_span(100 * one.low, 100 * one.high)}"
    return f"{signed(100 * one.mean)}{span} percentage points"


def _interval(one: Overall) -> str:
    return "" if one.low is None or one.high is None else f" {_span(one.low, one.high)}"


def _span(low: float, high: float) -> str:
    return f"[{low:.3g}, {high:.3g}]".replace("-", "−")


def _cell(method: str | None, rank: int, length: int) -> str:
    return f"{method + ', ' if method else ''}rank {rank}, length {length}"


def _over(pair: LawPair) -> str:
    methods = {pair.method_a, pair.method_b} - {None}
    who = f" ({' against '.join(name for name in (pair.method_a, pair.method_b) if name)})" if len(methods) > 1 else ""
    who = who or (f" ({methods.pop()})" if methods else "")
    return f"Laws over {'the matched cells' if pair.over == 'matched cells' else 'all cells of each'}{who}"


def _law_rows(pair: LawPair) -> list[list[str]]:
    rows = []
    for name, sign in _SIGNS.items():
        one = pair.differences[name] if pair.differences else None
        row = [sign]
        for law, value in ((pair.a, one and one.a), (pair.b, one and one.b)):
            if law is None:
                row.append("—")
            elif name == "c_ref" and value is not None:  # at the common reference cell, not at the law's own
                row.append(f"{value:.3f}")
            else:
                row.append(f"{getattr(law, name):.3f}{f' {_span(*law.interval(name))}' if law.draws else ''}")
        if one is None:
            row.append("—")
        else:
            span = "" if one.low is None or one.high is None else f" {_span(one.low, one.high)}"
            row.append(f"{signed(one.difference)}{span}")
        rows.append(row)
    laws = (pair.a, pair.b)
    rows.append(["R²", *("—" if law is None else f"{law.r2:.4f}" for law in laws), ""])
    rows.append(["cells used", *("—" if law is None else str(len(law.used)) for law in laws), ""])
    return rows


def _law_lines(pair: LawPair) -> list[str]:
    lines = []
    if pair.a or pair.b:
        for sign, a, b, apart in _law_rows(pair):
            difference = f";  B − A = {apart}" if apart not in ("", "—") else ""
            lines.append(f"{sign}: A {a}, B {b}{difference}")
    return lines + _remarks(pair)


def _remarks(pair: LawPair) -> list[str]:
    said = [f"No law of {name.upper()}: {pair.why[name]}." for name in ("a", "b") if name in pair.why]
    if "differences" in pair.why:
        said.append(f"No differences: {pair.why['differences']}.")
    if pair.differences:
        said.append(
            "B − A: both laws refitted to the same resampled cells; c_ref, which is ΔL − b, at one cell for both."
        )
    for name, law in (("A", pair.a), ("B", pair.b)):
        said += [f"{name}: warning: {text}" for text in (cautions(law) if law else [])]
    return said


def _left(name: str, cells: Sequence[dict[str, Any]]) -> str:
    if not cells:
        return ""
    shown = [f"{_cell(c['method'], c['rank'], c['length'])} ({c['reason']})" for c in cells[:_LISTED]]
    more = f"; and {len(cells) - _LISTED} more, all in compare.md" if len(cells) > _LISTED else ""
    return f"Only {name} has {_count(len(cells), 'cell')} without a partner: {'; '.join(shown)}{more}."


def _row(row: dict[Any, Any], several: bool, recall: list[str]) -> list[str]:
    cells = [*([str(row["method_b"])] if several else []), str(row["rank"]), str(row["length"])]
    cells += [f"{row['runs_a']}, {row['runs_b']}", f"{row['final_a']:.4f}", f"{row['final_b']:.4f}"]
    for name in ("final", "delta"):
        known = pd.notna(row[f"{name}_low"])
        span = f" {_span(row[f'{name}_low'], row[f'{name}_high'])}" if known else ""
        cells.append(signed(row[f"{name}_difference"]) + span)
    for name in recall:
        cells.append(", ".join("—" if pd.isna(x) else f"{100 * x:.1f}" for x in (row[f"{name}_a"], row[f"{name}_b"])))
    return cells


def _grid(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---:"] * len(titles), *rows)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
