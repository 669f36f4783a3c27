"""How the law stands among its rivals, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from memlaw_jax.analysis.law.rivals import Rival, Rivals

# Conventions for AICc differences (Burnham and Anderson): no evidence below the first, strong above the second.
WEAK, STRONG = 2.0, 10.0
# With fewer cells than this, twice the law's parameters and variance, AICc charges the offset alone with over 10.
FEW = 10
# AICc and held-out cells disagree when another form's held-out error is less than this share of the best form's, ...
CLEARLY = 0.9
# ... and the two differ by more than this (nats): below it lies the rounding of noise-free data.
NOTHING = 1e-9
_PLACES = {
    "largest_ranks": "at the largest ranks",
    "longest_lengths": "at the longest lengths",
    "leave_one_rank_out": "one rank at a time",
}


def describe(rivals: Rivals) -> list[str]:
    """By AICc, and by how much; what a nested rival adds; then each kind of held-out cells, and where they disagree."""
    best = rivals.best
    if best is None:
        said = [
            f"{rivals.cells} cells are too few to tell the law from its rivals: AICc with the law's 4 parameters and "
            "the variance needs 7."
        ]
    elif best is rivals.law:
        said = _law_is_best(rivals)
    else:
        said = _law_is_not_best(rivals, best)
    if best is not None and rivals.cells < FEW:
        said.append(
            f"With {rivals.cells} cells AICc charges the law over {STRONG:.0f} more than a form with one parameter "
            "fewer, whatever the fit: it mostly counts parameters here and is no evidence; add cells."
        )
    if rivals.refitted:
        said.append("All forms are compared by least squares, so the law here is not quite the one reported.")
    return said + [_held_out(rivals, best, key) for key in _PLACES]


def _law_is_best(rivals: Rivals) -> list[str]:
    behind = ((e.delta_aicc, e) for e in rivals.entries[1:] if e.delta_aicc is not None)
    gap, following = min(behind, key=lambda pair: pair[0])
    text = (
        f"Of {len(rivals.entries)} forms the law describes the {rivals.cells} cells best by AICc; {following.title} "
        f"comes next, {gap:.1f} behind{_strength(gap, rivals)}"
    )
    return [text, *_nesting(following), *_close(rivals, following)]


def _law_is_not_best(rivals: Rivals, best: Rival) -> list[str]:
    gap = rivals.law.delta_aicc or 0.0
    doubt = "" if best.converged else " (its fit did not converge)"
    place = 1 + sum(entry.delta_aicc is not None and entry.delta_aicc < gap for entry in rivals.entries)
    clear = "NOT" if gap >= WEAK else "not"
    text = (
        f"By AICc the law is {clear} the best of {len(rivals.entries)} forms but number {place}: {best.title}, "
        f"{best.formula}{doubt}, is ahead of it by {gap:.1f} on {rivals.cells} cells{_strength(gap, rivals)}"
    )
    return [text, *_nesting(best), *_close(rivals, rivals.law)]


def _strength(gap: float, rivals: Rivals) -> str:
    if rivals.cells < FEW:
        return "."
    kind = "no evidence" if gap < WEAK else "some evidence" if gap <= STRONG else "strong evidence"
    return f", which is {kind}. (Differences under {WEAK:.0f} are no evidence, above {STRONG:.0f} they are strong.)"


def _nesting(entry: Rival) -> list[str]:
    """What an entry is to the law, where one is a case of the other."""
    p = entry.parameters
    if entry.name == "curvature" and p.get("delta"):
        way = "rises" if p["delta"] > 0 else "falls"
        return [
            f"That form is the law with one more parameter, δ = {p['delta']:.3g}: the exponent of rank {way} by "
            f"{abs(p['delta']) * np.log(2):.2g} each time the length doubles."
        ]
    if entry.name == "no_offset":
        return ["That form is the law with b = 0, one parameter fewer."]
    if entry.name == "ratio" and "gamma" in p:
        return [f"That form is the law with α = β = {p['gamma']:.3f}, one parameter fewer."]
    return []


def _close(rivals: Rivals, named: Rival) -> list[str]:
    """Other forms that AICc cannot tell from the best."""
    near = [
        entry.title
        for entry in rivals.entries
        if entry is not rivals.best and entry is not named and entry.delta_aicc is not None and entry.delta_aicc < WEAK
    ]
    return [f"AICc cannot tell the best from {' and '.join(near)} either."] if near else []


def _held_out(rivals: Rivals, best: Rival | None, key: str) -> str:
    levels = {"largest_ranks": rivals.largest_ranks, "longest_lengths": rivals.longest_lengths}.get(key, ())
    which = f" ({', '.join(map(str, levels))})" if levels else ""
    text = f"Held out {_PLACES[key]}{which}: "
    error = rivals.law.heldout[key]
    if error is None:
        return text + "the other cells are too few to fix the law."
    known = ((entry.heldout[key], entry) for entry in rivals.entries)
    least, first = min(((e, entry) for e, entry in known if e is not None), key=lambda pair: pair[0])
    ahead = None if best is None or best is first else best.heldout[key]
    text += f"the law misses by {error:.3g} nats"
    text += ", the least of all forms" if first is rivals.law else f", {first.title} by {least:.3g}, the least of all"
    if ahead is None:
        return text + "."
    clearly = least < CLEARLY * ahead and ahead - least > NOTHING
    if best is rivals.law:
        return text + ("; this disagrees with AICc." if clearly else ".")
    verdict = "this disagrees with AICc, whose best form" if clearly else "the best by AICc"
    return f"{text}; {verdict} misses by {ahead:.3g}."
