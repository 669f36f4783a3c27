"""From milliseconds to ratios, shares of the machine's peak, the table and the targets. Pure functions of the JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

HEADINGS = (
    "tokens", "side", "adapters", "ms per adapter-step", "adapters·tokens/s", "useful", "own", "a / it", "b / it",
    "c / it", "roofline", "of it", "memory", "compile",
)  # fmt: skip
SIDES = {
    "a": "the released procedure in PyTorch",
    "b": "the lean PyTorch loop",
    "c": "memlaw_jax with one adapter, nothing cached",
    "d": "memlaw_jax as it ships: N adapters in N lanes, frozen features cached",
}
READING = """Paper: not given, it has no times. PyTorch: a and b. Milliseconds are of one step of one adapter:
median of the rounds (least to greatest). A ratio is the median of the ratios within each round. `useful`: FLOPs a
second that the result needs (frozen features cached, causal pairs, the head at answer positions), as a share of the
best square product that torch or JAX made here in this run; `own`: the same of the side's own arithmetic.
`roofline`: what arithmetic alone lets it gain on c; `of it`: how much of that was measured. Memory is the peak above
what was resident before (CPU), or of the library's own allocations (GPU).
"""


def peak(found: dict[str, Any]) -> float:
    """FLOP/s of the best product of the run, torch's or JAX's."""
    return max(max(measured.values()) for measured in found["matmul"])


def summarise(case: dict[str, Any], best: float) -> list[dict[str, Any]]:
    """A row for each side of a case that was timed, in the order of `HEADINGS`' meaning, as numbers."""
    timed = {side["side"]: side for side in case["sides"] if side["ms"] and side["side"] != "d"}
    rows = []
    for side in case["sides"]:
        row = {"tokens": case["tokens"], "side": side["side"], "adapters": side["adapters"]}
        if "failed" in side:
            row["failed"] = side["failed"]
        elif side["ms"]:
            seconds = float(np.median(side["ms"])) / 1e3
            row |= {
                "ms": 1e3 * seconds,
                "spread": [min(side["ms"]), max(side["ms"])],
                "tokens_per_second": case["tokens"] / seconds,
                "useful": side["flops_needed"] / seconds / best,
                "own": side["flops_own"] / seconds / best,
                "ratio": {name: paired(other["ms"], side["ms"]) for name, other in timed.items()},
                "peak_bytes": side.get("peak_bytes"),
                "compile_seconds": side.get("compile_seconds"),
                "feature_seconds": side.get("feature_seconds"),
            }
            if side["side"] == "d":
                row["roofline"] = case["flops_uncached"] / side["flops_own"]
                if "c" in row["ratio"]:
                    row["of_roofline"] = row["ratio"]["c"] / row["roofline"]
        rows.append(row)
    return rows


def paired(one: list[float], other: list[float]) -> float:
    """The median over rounds of one / other."""
    return float(np.median([a / b for a, b in zip(one, other, strict=False)]))


def table(cases: list[dict[str, Any]], best: float) -> str:
    """Markdown: a line a side of each case that agreed, and what was not measured and why."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
    told = []
    for case in cases:
        if "disagrees" in case:
            told.append(f"- {case['tokens']} tokens: {case['disagrees']}")
            continue
        for row in summarise(case, best):
            if "failed" in row:
                told.append(f"- {row['tokens']} tokens, {row['side']} with {row['adapters']}: {row['failed']}")
            elif "ms" in row:
                lines.append(f"| {' | '.join(_cells(row))} |")
    names = [f"- {name}: {words}" for name, words in SIDES.items()]
    return "\n".join([*lines, "", *names, *told, "", READING])


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["spread"]
    ratio = [f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "" for name in "abc"]
    memory, compiled = row["peak_bytes"], row["compile_seconds"]
    return [
        str(row["tokens"]),
        row["side"],
        str(row["adapters"]),
        f"{row['ms']:.3g} ({low:.3g} to {high:.3g})",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['useful']:.0%}",
        f"{row['own']:.0%}",
        *ratio,
        f"{row['roofline']:.2f}" if "roofline" in row else "",
        f"{row['of_roofline']:.0%}" if "of_roofline" in row else "",
        f"{memory / 1e6:,.0f} MB" if memory else "",
        "" if compiled is None else f"{compiled:.1f} s",
    ]


def targets(cases: list[dict[str, Any]], best: float, gpu: bool) -> list[dict[str, Any]]:
    """What was wanted beside what was measured, for ours with the most adapters."""
    found = []
    for case in cases:
        ours = [row for row in summarise(case, best) if row["side"] == "d"] if "disagrees" not in case else []
        if not ours:
            continue
        row, tokens = max(ours, key=lambda row: row["adapters"]), case["tokens"]
        ratio = row.get("ratio", {})
        for name, least in _wanted(tokens, gpu).items():
            found.append(_target(tokens, f"{name} / d", ratio.get(name), least))
        found.append(_target(tokens, "share of the roofline ratio c / d", row.get("of_roofline"), 0.7))
        if gpu and tokens >= 2000:
            found.append(_target(tokens, "useful share of the matmul peak", row.get("useful"), 0.5))
        if gpu and tokens >= 10_000 and row["adapters"] >= 16:
            found.append(_target(tokens, "16 adapters fit (1 is yes)", float("failed" not in row), 1.0))
    return [target for target in found if target["measured"] is not None]


def _wanted(tokens: int, gpu: bool) -> dict[str, float]:
    if gpu:
        return {"a": 20.0 if tokens <= 200 else 8.0 if tokens <= 500 else 4.5 if tokens >= 2000 else 0.0}
    return {"a": 4.0, "b": 1.0} if 400 <= tokens <= 600 else {}


def _target(tokens: int, what: str, measured: float | None, least: float) -> dict[str, Any]:
    met = None if measured is None else bool(measured >= least and not math.isnan(measured))
    return {"tokens": tokens, "what": what, "measured": measured, "wanted": least, "met": met}


def target_lines(found: list[dict[str, Any]]) -> list[str]:
    """A sentence a target."""
    return [
        f"{one['tokens']} tokens, {one['what']}: {one['measured']:.2f}, wanted ≥ {one['wanted']:g}: "
        f"{'met' if one['met'] else 'NOT MET'}"
        for one in found
    ]
