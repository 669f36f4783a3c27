"""The table and the verdicts that a benchmark ends with: the paper, ours, and a PyTorch run's results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd
from etils import epath

from common.numbers import paper as known
from memlaw_jax.analysis.files import write

INTERVALS = {
    " ± ": "±: half of a 95 % interval by Student's t over seeds; none where all seeds are equal.",
    " [": "[ ]: a 95 % interval over resampled cells.",
}
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantity; what is not known or not measured is empty. Rows of one `section` stand under its name."""

    what: str
    section: str = ""
    paper: str = ""
    ours: str = ""
    pytorch: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper, what our run at this scale makes of it, and the numbers that say so."""

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a benchmark found. `details` are further numbers for machines, `words` further lines for people."""

    rows: Sequence[Row]
    claims: Sequence[Claim] = ()
    files: Sequence[epath.Path] = ()
    words: Sequence[str] = ()
    details: dict[str, Any] = field(default_factory=dict)


def verdict(low: float, high: float, above: float) -> Verdict:
    """Whether something is above a bound, by its 95 % interval."""
    return "holds" if low > above else "does not hold" if high < above else "undecided"


def scale_rows(frame: pd.DataFrame, paper: Mapping[str, str]) -> list[Row]:
    """How the scales differ: the first rows of every table. `paper` adds to what all of its runs have alike."""
    said = known()["protocol"]
    alike = {
        "seeds": str(said["seed"]),
        "protocol": "paper",
        "dropout": str(said["dropout"]),
        "precision of weights, adapter": f"adapter {said['adapter_dtype']}",
    }
    ours = {
        "model": _shown(frame, "model"),
        "ranks": _shown(frame, "rank"),
        "answer tokens ℓ": _shown(frame, "length"),
        "steps": _shown(frame, "steps"),
        "seeds": _shown(frame, "seed"),
        "protocol": _shown(frame, "protocol"),
        "dropout": _shown(frame, "dropout"),
        "precision of weights, adapter": _shown(frame, "precision"),
        "device": _shown(frame, "device"),
    }
    return [Row(what=what, paper={**alike, **paper}.get(what, ""), ours=shown) for what, shown in ours.items()]


def _shown(frame: pd.DataFrame, column: str) -> str:
    if column not in frame.columns:
        return ""
    values = sorted({value if isinstance(value, int | float) else _words(value) for value in frame[column]})
    numbers = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(numbers) if len(numbers) <= 8 else f"{len(numbers)} from {numbers[0]} to {numbers[-1]}"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{part}" for part in value.values() if part)
    return str(value)


def markdown(rows: Sequence[Row], ours: str) -> str:
    """The table; without a PyTorch column where none of its cells is known."""
    heads = ["", "paper", ours, *(["PyTorch run"] if any(row.pytorch for row in rows) else [])]
    lines = [heads, ["---"] * len(heads)]
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append([f"**{section}**", *[""] * (len(heads) - 1)])
        lines.append([row.what, row.paper, row.ours, row.pytorch][: len(heads)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def finish(place: epath.Path, told: dict[str, Any], found: Report) -> str:
    """Writes `table.md` and `result.json` into a folder; the words for a person."""
    scale = told["scale"]
    table = markdown(found.rows, f"ours, scale {scale}")
    parts = [*found.words, table, *(said for sign, said in INTERVALS.items() if sign in table)]
    if scale == "tiny":
        parts.insert(0, "Scale tiny shows that the script works and says nothing about the paper.")
    elif found.claims:
        parts.append("\n".join(f"- {one.claim}: **{one.verdict}**. {one.evidence}" for one in found.claims))
    text = "\n\n".join(parts)
    claims = [asdict(one) for one in found.claims] if scale != "tiny" else []
    content = told | {"rows": [asdict(row) for row in found.rows], "claims": claims} | found.details
    written = [
        write(place / "table.md", _page(told) + text + "\n"),
        write(place / "result.json", json.dumps(content, indent=1, ensure_ascii=False, default=float) + "\n"),
        *found.files,
    ]
    return "\n".join([text, "", *(f"wrote {path}" for path in written if path.suffix != ".svg")])


def _page(told: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    return f"`{told['command']}`, {told['date'][:10]}, {told['hardware']}; {versions}.\n\n"
