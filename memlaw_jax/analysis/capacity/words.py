"""A capacity in plain words, and as a table in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memlaw_jax.analysis.capacity.capacity import ALLEN_ZHU, MEASURES, MORRIS

if TYPE_CHECKING:
    from memlaw_jax.analysis.capacity.capacity import Capacity

_ROUND = 0.005  # exposures that differ by less are told as one number


def describe_capacity(found: Capacity) -> str:
    """What the adapters hold, in a few sentences: bits, tokens, the longest length recalled, and what to be wary of."""
    lines = [_head(found), _bits(found), _beside(found), _doubt(found), _gain(found)]
    lines += [_growth(found), _longest(found), _density(found), _rule(found), *cautions(found)]
    return "\n".join(line for line in lines if line)


def cautions(found: Capacity) -> list[str]:
    """What is not known and why, and what was assumed, a sentence each."""
    said = [f"Not known: {reason}." for reason in found.missing.values()]
    if found.diverged:
        said.append(f"{_count(found.diverged, 'diverged run')} left out.")
    if len(found.tasks) > 1:
        said.append(
            f"Warning: the results mix {len(found.tasks)} tasks ({', '.join(found.tasks)}), whose lengths do not "
            "compare; measure each apart."
        )
    return [*said, *(f"Warning: {text}" for text in found.notes)]


def capacity_table(found: Capacity) -> str:
    """The ranks as Markdown, under the same words."""
    titles = [
        "rank", "parameters", f"{MEASURES[found.measure]} [95 %]", "at ℓ", "bits per parameter", "bits per byte",
        "exposures", "gain, bits per parameter", "longest ℓ recalled", "recall ends in", "tokens per parameter",
    ]  # fmt: skip
    rows = [_cells(row) for row in _records(found)]
    lines = [f"| {' | '.join(row)} |" for row in (titles, ["---:"] * len(titles), *rows)]
    notes = [
        "≥: at least, for the most was held at the longest length tried, or every length was recalled. Recall ends in "
        "[a, b): 95 % over seeds where there are several, else between two lengths tried."
    ]
    return "\n".join(["# Capacity", "", *describe_capacity(found).split("\n"), "", *lines, "", *notes]) + "\n"


def span(low: float, high: float) -> str:
    """[low, high), or "from low on" where nothing bounds it above; nan is not known."""
    if low != low or high != high:
        return ""
    if high < float("inf"):
        return f"[{low:g}, {high:g})"
    return f"{low:g} or more" if low else "any length"


def _head(found: Capacity) -> str:
    who = " for ".join(x for x in ("Capacity", found.method) if x)
    task = f" on {', '.join(name.replace('_', ' ') for name in found.tasks)}" if found.tasks else ""
    runs = int(found.cells["runs"].sum())
    seen = found.overall.exposures
    often = ""
    if seen:
        alike = seen[1] <= seen[0] * (1 + _ROUND)
        often = f", every answer token seen {_n(seen[0])}{'' if alike else f' to {_n(seen[1])}'} times"
    cells, ranks = _count(len(found.cells), "cell"), _count(len(found.ranks), "rank")
    return f"{who}{task}: {cells}, {_count(runs, 'run')}, over {ranks}{often}."


def _bits(found: Capacity) -> str:
    what = {
        "stored": "Bits stored (the source's entropy less the final code length)",
        "heldout": "Excess bits over held-out items scored by the same adapter",
        "gain": "Information gain (ΔL · ℓ / ln 2, an upper view of memory that counts format and style too)",
    }[found.measure]
    over, ranks = found.overall, found.ranks.dropna(subset="capacity_bits")
    first, last = ranks.iloc[0], ranks.iloc[-1]
    ends = [f"{_n(row['capacity_bits'])} at rank {row['rank']}" for row in (first, last)[: min(2, len(ranks))]]
    text = f"{what}: {' and '.join(ends)}"
    if over.bits_per_parameter is None:
        return f"{text}."
    interval = f" [{_n(over.low)}, {_n(over.high)}] over resampled ranks" if over.low is not None else ""
    text += (
        f"; {_n(over.bits_per_parameter)} bits per parameter{' in the median rank' if len(ranks) > 1 else ''}{interval}"
    )
    if len(ranks) > 1:
        text += f", {_n(over.least)} to {_n(over.most)} over the ranks, most at rank {over.most_rank}"
    if over.bits_per_byte is not None and over.byte_width is not None:
        kind = {4: "float32", 2: "bfloat16"}.get(int(over.byte_width))
        other = f"; {_n(2 * over.bits_per_byte)} were it stored as bfloat16" if kind == "float32" else ""
        text += (
            f". A byte of the adapter ({kind}, {over.byte_width:g} a parameter) holds {_n(over.bits_per_byte)}{other}"
        )
    return f"{text}."


def _beside(found: Capacity) -> str:
    median = found.overall.bits_per_parameter
    if median is None or median <= 0:
        return ""
    start = "That, which counts more than memory, is" if found.measure == "gain" else "That is"
    return (
        f"{start} {_percent(median / ALLEN_ZHU)} of Allen-Zhu and Li's {ALLEN_ZHU:g} bits per parameter (2024; 1000 "
        f"exposures, about 1 bit at 100) and {_percent(median / MORRIS)} of Morris et al.'s {MORRIS:g} (2025); both "
        "are for whole models trained from scratch."
    )


def _doubt(found: Capacity) -> str:
    ranks = found.ranks
    if not found.overall.lower_bounds:
        full = "At every rank the most is held at a length below the longest tried, so each was filled."
        return full if (ranks["capacity_bits"] > 0).all() else ""
    recalled = [row["rank"] for row in _records(found) if row["all_recalled"] is True]
    longest = [row["rank"] for row in _records(found) if row["at_longest"] and row["all_recalled"] is not True]
    parts = []
    if recalled:
        parts.append(f"{_ranks(recalled)} recalled every length")
    if longest:
        parts.append(f"{_ranks(longest)} held most at the longest length tried")
    steps = ranks.loc[[x is True for x in ranks["at_longest"]], "last_step"].dropna()
    still = (
        f" (where bits still grew as ℓ^{steps.median():.2g} in the median of them)" if len(steps) and longest else ""
    )
    return (
        f"A lower bound at {found.overall.lower_bounds} of {_count(len(ranks), 'rank')}: {', and '.join(parts)}"
        f"{still}, so longer ones may show more."
    )


def _gain(found: Capacity) -> str:
    """How much of the gain is no memory."""
    cells = found.cells.dropna(subset="bits")
    if found.measure == "gain" or cells.empty:
        return ""
    gain, bits = float(cells["gain_bits"].sum()), float(cells["bits"].sum())
    if gain <= 0:
        return ""
    rest = 1 - bits / gain
    why = "format, style, and being less wrong than the base" if found.measure == "stored" else "the items' kind"
    if rest < 0:
        return f"The base knew part of it: the information gain over it is {_n(gain / bits)} of these bits."
    return f"Of the information gain over the base, ΔL · ℓ / ln 2, {_percent(rest)} is not such memory but {why}."


def _growth(found: Capacity) -> str:
    if found.growth is None:
        return ""
    if found.growth <= 0:
        return "By the law the learned part of the gain does not grow with the length (β ≥ 1)."
    return (
        f"By the law the learned part of the gain grows as length^{found.growth:.2f} without end: it names no finite "
        "capacity; only the base's loss is a ceiling."
    )


def _longest(found: Capacity) -> str:
    rows = [row for row in _records(found) if row["recalled_length"] == row["recalled_length"]]
    if not rows:
        return ""
    some = [row for row in rows if row["recalled_length"] > 0 or row["recalled_high"] == float("inf")]
    none = [row["rank"] for row in rows if row not in some]
    most = [f"{_n(row['recalled_length'])} tokens" if row["recalled_length"] else "none" for row in some]
    told = [f"{length} at rank {row['rank']} ({_ends(row)})" for length, row in zip(most, some, strict=True)]
    text = f"Longest recalled ({_wanted(found)}), and where recall ends: {'; '.join(told)}. " if told else ""
    if none:
        text += f"Nothing was recalled at {_ranks(none)}. "
    if odd := [row["rank"] for row in rows if row["monotone"] is False]:
        text += f"At {_ranks(odd)} a longer length was recalled though a shorter one was not; its bracket spans both. "
    return text.strip()


def _ends(row: dict[str, Any]) -> str:
    low, high = row["recalled_low"], row["recalled_high"]
    if high == float("inf") and not low:
        return "at any length (its seeds differ from none to all)"
    return f"in {span(low, high)}" if high < float("inf") else f"at {span(low, high)}"


def _density(found: Capacity) -> str:
    over = found.overall
    if over.tokens_per_parameter is None:
        return ""
    return (
        f"Most densely recalled: {over.densest_length} tokens at rank {over.densest_rank}, "
        f"{_n(over.tokens_per_parameter)} tokens per parameter, or {_n(1 / over.tokens_per_parameter)} parameters for "
        "each token."
    )


def _rule(found: Capacity) -> str:
    rule = found.rule
    if rule is None:
        return ""
    follow, against = rule.follows_recalled + rule.follows_failed, rule.breaks_recalled + rule.breaks_failed
    kept = f"{rule.follows_recalled} of the {_count(follow, 'cell')} within it" if follow else "no cell is within it"
    broken = f"{rule.breaks_recalled} of the {against} beyond it" if against else "no cell is beyond it"
    mixed = ";" if not (follow and against) else ","
    return f"Recalled, by the rule parameters ≥ answer tokens (Tinker's LoRA primer): {kept}{mixed} {broken}."


def _wanted(found: Capacity) -> str:
    return "word for word" if found.threshold == 1 else f"exact match ≥ {found.threshold:g}"


def _cells(row: dict[str, Any]) -> list[str]:
    bound = "≥ " if row["lower_bound"] else ""
    ends = f" [{_n(row['capacity_low'])}, {_n(row['capacity_high'])}]" if _told(row["capacity_low"]) else ""
    bits = f"{bound}{_n(row['capacity_bits'])}{ends}" if _told(row["capacity_bits"]) else ""
    return [
        str(row["rank"]),
        f"{row['effective_parameters']:.0f}" if _told(row["effective_parameters"]) else "",
        bits,
        f"{row['at_length']:.0f}" if _told(row["at_length"]) else "",
        f"{bound}{_n(row['bits_per_parameter'])}" if _told(row["bits_per_parameter"]) else "",
        *(
            _n(row[name]) if _told(row[name]) else ""
            for name in ("bits_per_byte", "exposures", "gain_bits_per_parameter")
        ),
        ("none" if row["recalled_length"] == 0 else f"{row['recalled_length']:.0f}")
        if _told(row["recalled_length"])
        else "",
        span(row["recalled_low"], row["recalled_high"]),
        _n(row["tokens_per_parameter"]) if _told(row["tokens_per_parameter"]) else "",
    ]


def _records(found: Capacity) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = found.ranks.to_dict("records")  # type: ignore[assignment]
    return rows


def _told(value: Any) -> bool:
    return value is not None and value == value


def _n(value: Any) -> str:
    """Three figures, and whole numbers whole: 0.364, 12.5, 1234."""
    if abs(value) >= 100:
        return f"{value:.0f}".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def _ranks(ranks: list[Any]) -> str:
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
