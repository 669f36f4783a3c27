"""Rows and verdicts about laws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from etils import epath

from common.numbers import number, paper
from common.table import Claim, Row, verdict
from memlaw_jax.analysis import Law, pool, share_exponents
from memlaw_jax.analysis.figures import METRICS, draw_curves, draw_heat, save
from memlaw_jax.analysis.files import folder
from memlaw_jax.analysis.law.rivals_words import FEW, WEAK


def law_rows(name: str, laws: Mapping[str, Law], known: Mapping[str, Any], torch: Law | None) -> list[Row]:
    """One law, or one through the cells of several: cells, R², MAPE and parameters beside the paper's."""
    found = pool(laws)
    dropped = sum(len(law.dropped) for law in laws.values())
    rows = [
        Row(
            section=name,
            what="cells fitted (left out as saturated)",
            paper=str(known.get("points", "")),
            ours=f"{found.cells} ({dropped})",
            pytorch=f"{len(torch.used)} ({len(torch.dropped)})" if torch else "",
        ),
        Row(
            section=name,
            what="R²",
            paper=number(known.get("r2")),
            ours=number(found.r2, found.intervals["r2"]),
            pytorch=number(torch.r2) if torch else "",
        ),
        Row(
            section=name,
            what="MAPE, %",
            paper=number(known.get("mape")),
            ours=number(100 * found.mape),
            pytorch=number(100 * torch.mape) if torch else "",
        ),
    ]
    for key in ("alpha", "beta", "b", "C"):
        rows.append(
            Row(
                section=name,
                what=_SIGNS.get(key, key),
                paper=number(known.get(key)),
                ours=number(getattr(found, key), found.intervals[key]),
                pytorch=number(getattr(torch, key), torch.interval(key)) if torch else "",
            )
        )
    return rows


REFUTED = 0.05
_SIGNS = {"alpha": "α", "beta": "β"}


def law_claims(name: str, laws: Mapping[str, Law]) -> list[Claim]:
    """Whether R² is above what the paper says, by its interval over resampled cells; of one law, also its rivals."""
    found, above = pool(laws), paper()["claims"]["law"]["r2_above"]
    told = f"R² {number(found.r2, found.intervals['r2'])} (95 %, by resampling {found.cells} cells), "
    told += f"MAPE {100 * found.mape:.2g} %."
    which = "one law describes" if len(laws) > 1 else "the law describes"
    claims = [
        Claim(
            claim=f"{which} {name} with R² above {above}", verdict=verdict(*found.intervals["r2"], above), evidence=told
        )
    ]
    rivals = next(iter(laws.values())).rivals if len(laws) == 1 else None
    if rivals is not None and rivals.best is not None:
        behind = [rival for rival in rivals.entries[1:] if rival.delta_aicc is not None]
        best = min(behind, key=lambda rival: rival.delta_aicc or 0.0)
        gap = (best.delta_aicc or 0.0) - (rivals.law.delta_aicc or 0.0)
        ahead = f"{best.title}, the best of {len(rivals.entries) - 1} rivals, is {abs(gap):.1f} AICc "
        few = rivals.cells < FEW  # AICc counts parameters then, whatever the fit
        doubt = f" With {rivals.cells} cells that is no evidence." if few else f" Below {WEAK:.0f} is no evidence."
        claims.append(
            Claim(
                claim=f"no other form describes {name} better than the law",
                verdict="undecided" if few or abs(gap) < WEAK else "holds" if gap > 0 else "does not hold",
                evidence=ahead + ("behind." if gap >= 0 else "ahead.") + doubt,
            )
        )
    return claims


def law_files(frame: pd.DataFrame, law: Law, place: epath.Path, metric: str) -> list[epath.Path]:
    """The law's files, ΔL over rank and over length as in the paper's Figure 2, and a heat map of a metric."""
    written = [*law.save(folder(place)), *save(draw_curves(frame, law), place, "figure_2")]
    shown = next(one for one in METRICS if one.name == metric)
    if shown.column in frame.columns and frame[shown.column].notna().any():
        written += save(draw_heat(frame, shown), place, f"heat_{metric}")
    return written


def shared_rows(laws: Mapping[str, Law]) -> list[Row]:
    """The fit of one α and β for all, with C and b of each."""
    found = share_exponents(laws)
    shown = {"R²": number(found.r2), "MAPE, %": number(100 * found.mape), "α": number(found.alpha)}
    shown |= {"β": number(found.beta), "p of an F test against exponents of their own": number(found.p, digits=2)}
    section = "one α and β for all, C and b of each ratio"
    return [Row(section=section, what=what, ours=value) for what, value in shown.items()]


def shared_claim(laws: Mapping[str, Law]) -> Claim:
    """Whether the exponents depend on the data, by the F test at 5 %."""
    found = share_exponents(laws)
    fit = f"α = {number(found.alpha)}, β = {number(found.beta)} for {len(laws)} data sets, each with its own C and b"
    return Claim(
        claim="the exponents do not depend on the share of random tokens",
        verdict="does not hold" if found.p < REFUTED else "undecided",
        evidence=f"{fit}: R² {number(found.r2)}, MAPE {100 * found.mape:.2g} % over {found.cells} cells; that they "
        f"are the same has p = {number(found.p, digits=2)} (F test; from {REFUTED} on they may be, which is no proof).",
    )
