"""Stubborn tokens: those that stay below the threshold in runs that remember nearly everything else.

The paper's claim (PAPER.md, section 1) is that a few such tokens derail whole answers. Where a run has learned little,
being below ½ says nothing of a token, so only runs that hold more than half of their tokens above it are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from memlaw_jax.analysis.tokens.tokens import Tokens

LISTED = 15
COLUMNS = (
    "method", "rank", "dataset", "sample", "position", "label", "piece", "runs", "share_below", "share_wrong", "mean_p",
    "nats_initial", "derails", "right_after",
)  # fmt: skip


def asked(tokens: Tokens, threshold: float) -> pd.Series:
    """Which runs are asked: a Boolean a row of `tokens.runs`."""
    above = tokens.table["p"] > threshold
    return above.groupby(tokens.table["run"]).mean() > 0.5


def stubborn(tokens: Tokens, threshold: float, by_rank: bool = False) -> pd.DataFrame:
    """Tokens below the threshold, or wrong, in more than half of the runs asked, those that derail most runs first.

    One row a method (with `by_rank` a method and rank; `rank` is missing otherwise) and token; the token is known by
    `dataset`, `sample` (row of its record), `position` and, where the sweep wrote them, `label` and `piece`. `runs` are
    those asked that hold it, `share_below` and `share_wrong` shares of them, `mean_p` and `nats_initial` means over
    them, `derails` the number in which it is its sample's first failure, and `right_after` what that costs: the tokens
    behind it that are right given the true text, on average over these runs.
    """
    keep = asked(tokens, threshold)
    table = tokens.table[keep.to_numpy()[tokens.table["run"].to_numpy()]].reset_index(drop=True)
    if table.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    right = table["right"].to_numpy()
    starts = np.flatnonzero(table["position"].to_numpy() == 0)
    size = np.diff([*starts, len(table)])
    begin = np.repeat(starts, size)
    wrong_before, right_before = (np.concatenate([[0], np.cumsum(flag)]) for flag in (~right, right))
    at = np.arange(len(table))
    derails = ~right & (wrong_before[at] == wrong_before[begin])
    after = right_before[np.repeat(starts + size, size)] - right_before[at + 1]
    table = table.assign(
        share_below=table["p"] <= threshold,
        share_wrong=~right,
        derails=derails,
        right_after=np.where(derails, after, np.nan),
        label=table["label"].fillna(-1).astype(np.int64),
    )
    keys = ["method", *(["rank"] if by_rank else []), "dataset", "sample", "position", "label"]
    groups = table.groupby(keys, observed=True, sort=True)
    made = groups.agg(
        piece=("piece", "first"),
        runs=("run", "size"),
        share_below=("share_below", "mean"),
        share_wrong=("share_wrong", "mean"),
        mean_p=("p", "mean"),
        nats_initial=("nats_initial", "mean"),
        derails=("derails", "sum"),
        right_after=("right_after", "mean"),
    ).reset_index()
    made = made[(made["share_below"] > 0.5) | (made["share_wrong"] > 0.5)]
    made = made.sort_values(["derails", "share_wrong", "share_below", "mean_p"], ascending=[False, False, False, True],
                            kind="stable")  # fmt: skip
    if by_rank:
        made = made.sort_values(["method", "rank"], kind="stable")
    else:
        made["rank"] = pd.NA
    made["label"] = made["label"].where(made["label"] >= 0).astype("Int64")
    made["piece"] = made["piece"].astype(object).where(made["piece"].notna(), None)
    return made[list(COLUMNS)].reset_index(drop=True)


def markdown(overall: pd.DataFrame, by_rank: pd.DataFrame, runs: int, of: int, threshold: float) -> str:
    """Both tables, the worst tokens of each method and rank."""
    lines = [
        "# Stubborn tokens",
        "",
        f"Tokens with p ≤ {threshold:g}, or wrong, in more than half of the {runs} of {of} runs that hold most of "
        "their tokens above it.",
        "*derails*: runs in which the token is its sample's first failure; *cost*: tokens behind it that are right "
        "given the true text and that greedy decoding loses, mean over those runs.",
    ]
    if overall.empty:
        return "\n".join([*lines, "", "There are none."]) + "\n"
    parts = [(f"{name}, all ranks", mine) for name, mine in overall.groupby("method", observed=True)]
    for (name, rank), mine in by_rank.groupby(["method", "rank"], observed=True):
        parts.append((f"{name}, rank {rank}", mine))
    for title, mine in parts:
        lines += ["", f"## {title} ({_listed(mine)})", "", *_grid(mine.head(LISTED))]
    return "\n".join(lines) + "\n"


def visible(piece: str | None) -> str:
    """A token's text with its white space and control characters shown; · where the sweep did not write it."""
    if piece is None or piece is pd.NA:
        return "·"
    marks = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(marks.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in piece)


def _listed(mine: pd.DataFrame) -> str:
    return f"{len(mine)} tokens" if len(mine) <= LISTED else f"{LISTED} of {len(mine)} tokens; all are in the CSV"


def _grid(table: pd.DataFrame) -> list[str]:
    titles = [
        "sample",
        "position",
        "token",
        "id",
        "runs",
        "below",
        "wrong",
        "mean p",
        "initial nats",
        "derails",
        "cost",
    ]
    return [
        _line(titles),
        _line(["---:" if title != "token" else "---" for title in titles]),
        *map(_line, _cells(table)),
    ]


def _cells(table: pd.DataFrame) -> Iterable[list[str]]:
    for row in table.to_dict("records"):
        text = visible(row["piece"])
        code = f"`` {text} ``" if "`" in text else f"`{text}`"
        yield [
            str(row["sample"]),
            str(row["position"]),
            code.replace("|", "\\|") if text else "(empty)",
            "·" if pd.isna(row["label"]) else str(row["label"]),
            str(row["runs"]),
            f"{100 * row['share_below']:.0f} %",
            f"{100 * row['share_wrong']:.0f} %",
            f"{row['mean_p']:.3f}",
            f"{row['nats_initial']:.2f}",
            str(row["derails"]),
            "" if pd.isna(row["right_after"]) else f"{row['right_after']:.1f}",
        ]


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"
