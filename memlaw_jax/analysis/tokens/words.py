"""What the microscope found, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from memlaw_jax.analysis.tokens.microscope import Microscope, Order
from memlaw_jax.analysis.tokens.phase import HALF, HalfCheck
from memlaw_jax.analysis.tokens.stubborn import visible

_LISTED = 5
_ROUNDING = 1e-6  # of p; two tokens that tie at ½ come out this far apart in float32


def describe_microscope(found: Microscope) -> str:
    """The theorem by precision, first token below against first failure, low loss without recall, stubborn tokens."""
    runs, whole = found.runs, found.order[0]
    below = int(runs["below"].sum())
    total = sum(check.tokens for check in found.checks)
    text = f"{_count(len(runs), 'run')}, {_count(whole.samples, 'sample')}, {_count(total, 'token')}"
    lines = [f"{text}; {_share(below, total)} of the tokens are at or below p = {found.threshold:g}."]
    if found.diverged:
        lines.append(f"{_count(len(found.diverged), 'diverged run')} left out.")
    for check in found.checks:
        lines += _half(check)
    lines += _order(whole, found.threshold)
    lines += _decoupled(found)
    lines += _stubborn(found)
    return "\n".join(lines)


def _half(check: HalfCheck) -> Iterator[str]:
    where = f"In {check.frozen}" if check.frozen != "unknown" else "In an unknown precision"
    yield (
        f"{where}, teacher-forced: {check.missed_above} of {check.above} tokens above ½ are missed; "
        f"the largest p of a missed token is {_p(check.highest_missed)}. "
        f"Below ½, {_share(check.right_below, check.below)} are right all the same."
    )
    if check.missed_above and check.highest_missed is not None:
        if check.highest_missed < HALF + _ROUNDING:
            yield "  That is ½ to rounding: a tie of two tokens."
        else:
            yield "Warning: arithmetic forbids this of one set of logits; nats and right do not belong together."
    if check.samples_decoded:
        yield (
            f"  Free-running, {_count(check.samples_decoded, 'sample')}: {check.free_missed_above} of "
            f"{check.free_above} tokens above ½ are missed after a right beginning"
            f"{_at_most(check.free_missed_above, check.free_above)}; the largest p at a first failure is "
            f"{_p(check.free_highest_missed)}; {_count(check.free_elsewhere, 'sample')} fail elsewhere "
            "than teacher forcing says."
        )
    else:
        yield "  No run was decoded free-running (no free_right arrays), so this is about teacher forcing alone."
    if check.enough is not None and check.enough > HALF:
        yield f"  To be recalled here, p must be above {check.enough:.4f}."


def _at_most(missed: int, of: int) -> str:
    # The rule of three: none of n seen puts the rate below 3/n with 95 % confidence.
    return f" (a rate below {3 / of:.2g} with 95 % confidence)" if not missed and of >= 30 else ""


def _order(order: Order, threshold: float) -> Iterator[str]:
    found = order.correlation
    what = f"first position at or below p = {threshold:g} and first failure"
    if found.rho is None:
        why = "one of the two is the same for all" if order.both > 1 else "too few"
        yield (
            f"Spearman's ρ of {what}: none, {_count(order.both, 'sample')} with both and {why}; "
            f"{_share(order.same, order.both)} fail at that very token."
        )
    else:
        span = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
        why = "" if span else " (an interval needs 5 cells)"
        yield (
            f"Spearman's ρ of {what}: {found.rho:.3f}{span}, n = {found.n} samples of "
            f"{_count(found.clusters, 'cell')}{why}; {_share(order.same, order.both)} fail at that very token."
        )
    yield (
        f"  {_count(order.only_below, 'sample')} dip below it and are recalled all the same, {order.neither} never do; "
        f"{order.only_failed + order.before} fail without such a token before."
    )
    if threshold < HALF and order.only_failed + order.before:
        yield "  (Below ½ the threshold guarantees nothing, so such failures may be.)"


def _decoupled(found: Microscope) -> Iterator[str]:
    cells = found.decoupled
    if cells.empty:
        yield "No run has a mean loss below the threshold's and yet recalls nothing."
        return
    yield f"{_count(len(cells), 'run')} with a low loss that recall nothing:"
    several = found.runs["method"].nunique() > 1
    for row in cells.head(_LISTED).to_dict("records"):
        yield f"  {_run(row, several)}"
    if len(cells) > _LISTED:
        yield f"  … and {len(cells) - _LISTED} more, in microscope.json"


def _run(row: dict[Any, Any], several: bool) -> str:
    name = f"{row['method']}, " if several else ""
    return (
        f"{name}rank {row['rank']}, length {row['length']}, seed {row['seed']}: loss {row['loss_final']:.2f} nats, "
        f"yet 0 of {row['samples']} recalled, {_count(row['below'], 'token')} at or below the threshold"
    )


def _stubborn(found: Microscope) -> Iterator[str]:
    asked = f"{found.asked} of {_count(len(found.runs), 'run')} hold most of their tokens above the threshold"
    if not found.asked:
        yield "No run holds most of its tokens above the threshold, so none can be called stubborn."
        return
    yield f"{asked}; {_count(len(found.stubborn), 'token')} stay below it, or wrong, in more than half of these."
    several = found.runs["method"].nunique() > 1
    for row in found.stubborn.head(_LISTED).to_dict("records"):
        text = "" if row["piece"] is None or row["piece"] is pd.NA else f" “{visible(row['piece'])}”"
        cost = "" if pd.isna(row["right_after"]) else f", which costs {row['right_after']:.1f} right tokens behind it"
        name = f"{row['method']}, " if several else ""
        yield (
            f"  {name}sample {row['sample']}, position {row['position']}{text}: mean p {row['mean_p']:.3f}, wrong in "
            f"{100 * row['share_wrong']:.0f} % of {_count(row['runs'], 'run')}, first failure in {row['derails']}{cost}"
        )


def _p(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
