"""A proposed sweep in plain words."""

from __future__ import annotations

from collections.abc import Iterable

from memlaw_jax.analysis.planning.design import SweepDesign
from memlaw_jax.analysis.planning.design_table import FEWEST_CELLS, FEWEST_LEVELS


def describe_design(design: SweepDesign) -> str:
    """What to run, what it gives, what it costs beside other sweeps, the pilot, and what all this rests on."""
    lines = [
        _proposal(design),
        _prediction(design),
        _cost(design),
        *_left_out(design),
        *_pilot(design),
        *(f"Assumed: {text}" for text in design.assumptions),
        f"Constraints: at least {FEWEST_CELLS} cells over {FEWEST_LEVELS} ranks and {FEWEST_LEVELS} lengths, so that "
        "curvature and lack of fit can show, and a fit that would not be flagged as weakly identified.",
        *(f"Warning: {text}" for text in _warnings(design)),
    ]
    return "\n".join(lines)


def _proposal(design: SweepDesign) -> str:
    whole = len(design.ranks) * len(design.lengths) - len(design.cells)
    cut = f" without the {whole} cells of it that would be saturated" if whole else ""
    runs = len(design.cells) * design.seeds
    return (
        f"Proposed sweep: ranks {_list(design.ranks)} × lengths {_list(design.lengths)}{cut}: {len(design.cells)} cells"
        f" with {_count(design.seeds, 'seed')} each, {_count(runs, 'run')}."
    )


def _prediction(design: SweepDesign) -> str:
    text = (
        f"Expected 95 % intervals: {design.width_alpha:.3g} wide on α (standard error {design.se_alpha:.2g}) and "
        f"{design.width_beta:.3g} on β; wanted on α: {design.wanted:g}."
    )
    if design.width_alpha < 0.85 * design.wanted:
        text += " It is narrower than asked for because of the constraints below."
    return text


def _cost(design: SweepDesign) -> str:
    full, free = design.full, design.unrestricted
    reach = (
        f"with {_count(full.seeds, 'seed')} would cost {_amount(full.cost, design.unit)} "
        f"({_share(full.cost, design.cost)}) for an interval of {full.width:.3g}"
    )
    saved = 100 * (1 - free.cost / design.cost)
    other = (
        f"an unrestricted choice of {free.cells} cells with {_count(free.seeds, 'seed')} would cost {saved:.0f} % less"
        if saved >= 0.5
        else "no choice of cells without the form of a grid was found that costs less"
    )
    return f"Compute: {_amount(design.cost, design.unit)}. All {full.cells} candidate cells {reach}; {other}."


def _left_out(design: SweepDesign) -> list[str]:
    lines = []
    if design.saturated:
        lines.append(
            f"Left out as saturated: {len(design.saturated)} of {design.candidates} candidates, whose predicted final "
            "loss is at or below ln 2, or above it by less than two standard deviations of a run."
        )
    if design.unlearned:
        lines.append(f"Left out as well: {len(design.unlearned)} candidates for which the law predicts ΔL ≤ 0.")
    return lines


def _pilot(design: SweepDesign) -> list[str]:
    pilot = design.pilot
    rates = ", ".join(f"{rate:g}" for rate in pilot.rates)
    return [
        f"Before it, a pilot for the learning rate: ranks {_list(pilot.ranks)} at length {pilot.length}, rates {rates},"
        f" one seed: {len(pilot.ranks) * len(pilot.rates)} runs, {_amount(pilot.cost, design.unit)} "
        f"({100 * pilot.cost / design.cost:.0f} % of the sweep's).",
        "One rate for every rank mixes capacity with effective learning rate: take each rank's best rate by final loss,"
        " interpolate ln(rate) in ln(rank) for the others, and try more where the best is at the edge of those tried.",
    ]


def _warnings(design: SweepDesign) -> list[str]:
    said = list(design.extrapolated)
    if said:
        said = [text[0].lower() + text[1:] for text in said]
        said[-1] += " The proposal extrapolates there, so look at those cells first."
    return said


def _amount(cost: float, unit: str) -> str:
    if unit == "seconds":
        return f"{cost:.3g} s" if cost < 120 else f"{cost / 60:.3g} min" if cost < 7200 else f"{cost / 3600:.3g} h"
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if cost >= size:
            return f"{cost / size:.3g}{word} {unit}"
    return f"{cost:,.0f} {unit}"


def _share(other: float, own: float) -> str:
    return f"{other / own:.1f} times as much" if other > own else f"{100 * other / own:.0f} % of it"


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
