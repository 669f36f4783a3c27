"""A comparison of methods in plain words, and as tables in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from memlaw_jax.analysis.comparison.methods_pairs import MEASURES, split

if TYPE_CHECKING:
    from memlaw_jax.analysis.comparison.methods import Methods

_SAME = 1e-12


def describe_methods(found: Methods) -> str:
    """The verdict, then for each task and length: who differs from the reference, at which ranks, and who leads."""
    lines = [overall_verdict(found)]
    for task, length in found.main:
        lines += ["", f"{_title(task, length)}:"]
        lines += [f"  {line}" for line in [verdict(found, task, length), *_by_rank(found, task, length)]]
        lines += [f"  {line}" for line in _other_measures(found, task, length)]
        lines += [f"  {line}" for line in regimes(found, task, length)]
    return "\n".join([*lines, *([""] if (said := notes(found)) else []), *said])


def overall_verdict(found: Methods) -> str:
    """How many methods are ahead of the reference, over all tasks and lengths, each by its main measure."""
    rows = [row for task, length in found.main for row in _rows(found.pooled, task, length, found.main[task, length])]
    count = Counter(_side(row) for row in rows)
    chance = "; one in twenty would leave its interval by chance" if count["ahead"] + count["behind"] else ""
    return (
        f"Against {found.reference} at equal token visits, of {_count(len(rows), 'comparison')} (method × task × "
        f"length): {count['ahead']} ahead and {count['behind']} behind beyond the 95 % interval, "
        f"{len(rows) - count['ahead'] - count['behind']} undecided{chance}."
    )


def verdict(found: Methods, task: str, length: int) -> str:
    """Which methods differ from the reference by the main measure, averaged over the ranks in transition."""
    name = found.main[task, length]
    rows = _rows(found.pooled, task, length, name)
    words = f"{MEASURES[name].words} over {found.reference}"
    sides: dict[str, list[str]] = {"ahead": [], "behind": [], "unclear": [], "untested": []}
    for row in rows:
        sides[_side(row)].append(_method(row, name))
    parts = []
    if clear := [*sides["ahead"], *sides["behind"]]:
        parts.append(f"In {words}, averaged over the ranks in transition: {'; '.join(clear)}.")
    if sides["unclear"]:
        start = "Within its interval" if clear else f"No method differs from {found.reference} beyond its interval"
        parts.append(f"{start}{'' if clear else f' in {MEASURES[name].words}'}: {'; '.join(sides['unclear'])}.")
    if sides["untested"]:
        why = "With one seed there is no interval" if max(row["seeds"] for row in rows) == 1 else "Without an interval"
        parts.append(f"{why}: {'; '.join(sides['untested'])}.")
    return " ".join(parts) or f"Nothing was run beside {found.reference}."


def regimes(found: Methods, task: str, length: int) -> list[str]:
    """The best method at each rank, and whether `early` leads at low and `late` at high ranks, as the paper has it."""
    lines = []
    for name in ("exact_match", "token_accuracy_free"):
        if rows := _rows(found.leaders, task, length, name):
            best = [f"{row['rank']} {_leader(row)}" for row in rows]
            lines.append(f"Best by {MEASURES[name].words} (* beyond the interval), rank {'; rank '.join(best)}.")
    lines += [
        f"By {MEASURES[name].words}, {_crossing(rows, found.early, found.late)}"
        for name in ("exact_match", "token_accuracy_free")
        if (rows := _rows(found.crossing, task, length, name))
    ]
    return lines


def notes(found: Methods) -> list[str]:
    """What was left out or cannot be compared."""
    said = []
    for method, runs in _by_method(found.unmatched):
        off = max(abs(run["token_visits"] / run["reference_visits"] - 1) for run in runs)
        said.append(
            f"Not compute-matched: {_count(len(runs), 'run')} of {method} left out, up to {100 * off:.2g} % from "
            f"{found.reference}'s token visits ({100 * (found.tolerance or 0):g} % are allowed; {_ranks(runs)})."
        )
    if found.tolerance is None:
        said.append("Compute was not compared: token visits may differ.")
    for method, runs in _by_method(found.unpaired):
        said.append(f"{_count(len(runs), 'run')} of {method} without a run of {found.reference} to compare with.")
    for method, runs in _by_method(found.diverged):
        said.append(f"{_count(len(runs), 'run')} of {method} diverged ({_ranks(runs)}).")
    incomplete = sorted({rank for row in found.pooled.to_dict("records") for rank in row["incomplete"]})
    if incomplete:
        said.append(f"Ranks that not every seed has are not averaged over: {', '.join(map(str, incomplete))}.")
    return said


def methods_table(found: Methods) -> str:
    """The comparison as Markdown: verdicts, and for each task and length the means and the differences by rank."""
    lines = ["# Methods at equal token visits", "", overall_verdict(found), ""]
    lines += ["[95 % intervals] are Student's t over seeds; differences are paired by seed, data and rank.", ""]
    lines += [f"- {line}" for line in notes(found)]
    for task, length in found.main:
        lines += ["", f"## {_title(task, length)}", "", verdict(found, task, length)]
        lines += ["", *(f"- {line}" for line in regimes(found, task, length))]
        for name, measure in MEASURES.items():
            if means := _rows(found.means, task, length, name):
                lines += ["", f"### {measure.words[0].upper()}{measure.words[1:]}", "", *_grid(found, means, name)]
    return "\n".join(lines) + "\n"


def describe_rates(best: pd.DataFrame, reference: str = "sft", longer: str | None = None) -> list[str]:
    """Each method at its best learning rate (`best_rates`), and what is left of its lead over the reference.

    `longer` is the reference with more steps, under a name of its own.
    """
    lines = []
    for (task, length, rank), rows in split(best, ["task", "length", "rank"]):
        measure = MEASURES[rows["measure"].iloc[0]]
        by_method: dict[Any, Any] = rows.set_index("method").to_dict("index")
        said = [f"{name} {row['mean']:.3g} (rate {row['learning_rate']:g})" for name, row in by_method.items()]
        line = f"{_title(task, length)}, rank {rank}, {measure.words}, best of the rates tried: {', '.join(said)}."
        others = {name: row["mean"] for name, row in by_method.items() if name not in (reference, longer)}
        for name, what in ((reference, "its best rate"), (longer, "more steps")):
            if name in by_method:
                level = by_method[name]["mean"]
                above = [f"{other} by {_signed(mean - level)}" for other, mean in others.items() if mean > level]
                line += f" Above {reference} with {what}: {', '.join(above) or 'none'}."
        lines.append(line)
    return lines


def _by_rank(found: Methods, task: str, length: int) -> Iterator[str]:
    name, alike = found.main[task, length], []
    for rank, rows in _grouped(_rows(found.differences, task, length, name), "rank"):
        if any(row["wins"] + row["losses"] for row in rows):
            parts = [f"{row['method']} {_difference(row, name)}" for row in rows]
            yield f"rank {rank}: {', '.join(parts)} in {MEASURES[name].words} over {found.reference}"
        else:
            alike += rows
    if alike:
        yield f"{_ranks(alike)}: no difference in any pair"


def _other_measures(found: Methods, task: str, length: int) -> Iterator[str]:
    for name, measure in MEASURES.items():
        rows = _rows(found.pooled, task, length, name)
        if rows and name != found.main[task, length]:
            yield f"{measure.words}: {'; '.join(_method(row, name) for row in rows)}"


def _side(row: dict[str, Any]) -> str:
    if row["low"] > 0 or row["high"] < 0:
        return "ahead" if row["low"] > 0 else "behind"
    return "unclear" if row["low"] == row["low"] else "untested"


def _pooled(row: dict[str, Any], name: str) -> str:
    tally = f"{row['wins']} won, {row['ties']} tied, {row['losses']} lost of {_count(row['pairs'], 'pair')}"
    if not row["ranks"]:
        return f"has no rank in transition ({tally})"
    ranks = _ranks([{"rank": rank} for rank in row["ranks"]])
    return f"{_difference(row, name)} ({ranks}; {_count(row['seeds'], 'seed')}; {tally})"


def _method(row: dict[str, Any], name: str) -> str:
    return f"{row['method']} {_pooled(row, name)}"


def _difference(row: dict[str, Any], name: str) -> str:
    """A difference with its interval: of shares, or as a factor of p."""
    known = row["low"] == row["low"]
    if MEASURES[name].logarithmic:
        return f"×{10 ** row['mean']:.2g}" + (f" [{10 ** row['low']:.2g}, {10 ** row['high']:.2g}]" if known else "")
    return _signed(row["mean"]) + (f" [{_minus(row['low'])}, {_minus(row['high'])}]" if known else "")


def _leader(row: dict[str, Any]) -> str:
    if not row["best"]:
        return "all alike"
    if len(row["best"]) > 1:
        return " = ".join(row["best"])
    clear = "*" if row["low"] > 0 else ""
    return f"{row['best'][0]}{clear} ({_signed(row['ahead'])} on {row['next']})"


def _crossing(rows: list[dict[str, Any]], early: str, late: str) -> str:
    """The rest of a sentence on early − late over rank, whichever way it falls."""
    sides = {early: [row for row in rows if row["mean"] > _SAME], late: [row for row in rows if row["mean"] < -_SAME]}
    told = {
        name: f"{name} is above {late if name == early else early} at {_ranks(side)}" for name, side in sides.items()
    }
    clear = {
        name: [str(row["rank"]) for row in side if _side(row) in ("ahead", "behind")] for name, side in sides.items()
    }
    at = ", ".join([*clear[early], *clear[late]])
    sure = f"beyond the interval at {at}" if at else "nowhere beyond the interval"
    low, high = ([row["rank"] for row in sides[name]] for name in (early, late))
    if not low and not high:
        return f"{early} and {late} are alike at every rank."
    if not low or not high:
        return f"{told[early if low else late]} and nowhere below: the paper's two regimes do not appear ({sure})."
    weak = "" if all(clear.values()) else ", in the means only"
    if max(low) < min(high):
        return f"{told[early]}, and {told[late]}: the paper's two regimes{weak} ({sure})."
    if max(high) < min(low):
        return f"{told[late]}, and {told[early]}: the paper's two regimes the other way round{weak} ({sure})."
    return f"{told[early]}, and {told[late]}: no two regimes ({sure})."


def _grid(found: Methods, means: list[dict[str, Any]], name: str) -> list[str]:
    """A row a rank: the mean of each method, and the difference of each to the reference."""
    methods = [method for method in found.names if any(row["method"] == method for row in means)]
    value = {(row["rank"], row["method"]): row for row in means}
    first = means[0]
    apart = {
        (row["rank"], row["method"]): row for row in _rows(found.differences, first["task"], first["length"], name)
    }
    titles = ["rank", *methods, *(f"{method} over {found.reference}" for method in methods[1:])]
    rows = []
    for rank in sorted({row["rank"] for row in means}):
        cells = [_mean(value.get((rank, method)), name) for method in methods]
        cells += [_difference(row, name) if (row := apart.get((rank, method))) else "" for method in methods[1:]]
        rows.append([str(rank), *cells])
    return [f"| {' | '.join(row)} |" for row in (titles, ["---:"] * len(titles), *rows)]


def _mean(row: dict[str, Any] | None, name: str) -> str:
    if row is None:
        return ""
    return f"{10 ** row['mean']:.2g}" if MEASURES[name].logarithmic else f"{row['mean']:.3f}"


def _rows(table: pd.DataFrame, task: str, length: int, measure: str) -> list[dict[str, Any]]:
    if table.empty:
        return []
    here = (table["task"] == task) & (table["length"] == length) & (table["measure"] == measure)
    return table[here].to_dict("records")  # type: ignore[return-value]


def _by_method(runs: Iterable[dict[str, Any]]) -> list[tuple[Any, list[dict[str, Any]]]]:
    return _grouped(runs, "method")


def _grouped(rows: Iterable[dict[str, Any]], by: str) -> list[tuple[Any, list[dict[str, Any]]]]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return list(groups.items())


def _ranks(runs: Sequence[dict[str, Any]]) -> str:
    ranks = sorted({row["rank"] for row in runs})
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


def _title(task: str, length: int) -> str:
    return f"{task.replace('_', ' ') or 'results'}, {length} answer tokens"


def _signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if abs(value) > _SAME else "0"


def _minus(value: float) -> str:
    return f"{value:.2g}".replace("-", "−") if abs(value) > _SAME else "0"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
