"""Rows and verdicts about the transition at p = ½, and float32 adapters decoded on the bfloat16 base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from scipy import stats

from common.numbers import number, paper
from common.table import Claim, Row, Verdict, verdict
from memlaw_jax.analysis import Microscope, read_tokens
from memlaw_jax.analysis.tokens.phase import HALF, HalfCheck, correlate
from memlaw_jax.analysis.tokens.spearman import Correlation
from memlaw_jax.training import SweepConfig

FORETELLS = 0.9
KINDS = {"long texts": True, "phone book": False}  # whether a run has one sample


def rows(dtype: str, found: Microscope) -> list[Row]:
    """What one arithmetic says, beside the paper's numbers."""
    check, said = _check(found), paper()["claims"]["phase_transition"]
    made = [
        above_row(f"{dtype}, teacher-forced: tokens above ½ missed", check.missed_above, check.above, paper="0"),
        above_row(f"{dtype}, decoded greedily: missed", check.free_missed_above, check.free_above, paper="0"),
        Row(what=f"{dtype}: largest p of a missed token", ours=number(check.enough, digits=4)),
        Row(what=f"{dtype}: tokens at or below ½ that are right", ours=_share(check.right_below, check.below)),
    ]
    for kind, single in KINDS.items():
        pairs = _failing(found, single)
        if pairs.empty:
            continue
        order, same = correlate(pairs), int((pairs["first_below"] == pairs["first_failure"]).sum())
        long = kind == "long texts"
        made += [
            Row(
                what=f"{dtype}, {kind}: Spearman's ρ of first token below ½ and first failure",
                paper=f"{said['spearman']} (n = {said['runs']})" if long else "",
                ours=f"{_rho(order)} (n = {order.n})",
            ),
            Row(what=f"{dtype}, {kind}: failing at that very token", ours=_share(same, len(pairs))),
        ]
    return made + _plateau(dtype, found, said["plateau_tokens"])


def _plateau(dtype: str, found: Microscope, known: int) -> list[Row]:
    """How many tokens of a long text are right where decoding fails: token accuracy is that number over ℓ."""
    mine = _of_kind(found, True)
    mine = mine[mine["first_free_failure"].notna()]
    if mine.empty:
        return []
    runs, first = found.runs.loc[mine["run"]], mine["first_free_failure"].to_numpy(float)
    length = runs["length"].to_numpy(float)
    right = runs["token_accuracy_free"].to_numpy(float) * length
    low, middle, high = np.percentile(right, [25, 50, 75])
    after = (right - first).sum() / max((length - first).sum(), 1.0)
    return [
        Row(
            what=f"{dtype}, long texts that fail: tokens right when decoded, median (quartiles)",
            paper=f"{known}, whatever ℓ",
            ours=f"{middle:.3g} ({low:.3g} to {high:.3g}; n = {len(mine)})",
        ),
        Row(
            what=f"{dtype}, long texts that fail: tokens right from the first failure on, %",
            paper="nearly none",
            ours=f"{100 * after:.1f}",
        ),
    ]


def above_row(what: str, missed: int, above: int, paper: str = "") -> Row:
    """Misses above ½, with a bound on their rate."""
    return Row(what=what, paper=paper, ours=_missed(missed, above))


def claims(looks: Mapping[str, Microscope], served: Mapping[str, Any]) -> list[Claim]:
    """½ is enough; a low mean loss may recall nothing; the first token below ½ foretells the first failure."""
    made = []
    for dtype, found in looks.items():
        check = _check(found)
        told = f"Missed teacher-forced: {_missed(check.missed_above, check.above)}"
        if check.free_above:
            told += f"; decoded after a right beginning: {_missed(check.free_missed_above, check.free_above)}"
        made.append(_enough(dtype, check.missed_above + check.free_missed_above, check.above, f"{told}."))
    if served:
        missed, above = (sum(one[name] for one in served.values()) for name in ("missed_above", "above"))
        made.append(_enough("float32 adapters on a bfloat16 base", missed, above, f"Missed: {_missed(missed, above)}."))
    for dtype, found in looks.items():
        made += [_decoupled(dtype, found), *_foretells(dtype, found)]
    return made


def _enough(what: str, missed: int, above: int, told: str) -> Claim:
    found: Verdict = "undecided" if not above else "does not hold" if missed else "holds"
    return Claim(claim=f"p > ½ suffices for greedy decoding ({what})", verdict=found, evidence=told)


def _decoupled(dtype: str, found: Microscope) -> Claim:
    low = found.runs[found.runs["loss_final"] <= np.log(2)]
    single = low["decoupled"] & (low["samples"] == 1)
    several = low["decoupled"] & (low["samples"] > 1)
    return Claim(
        claim=f"a low average loss can still mean zero recall ({dtype})",
        verdict="holds" if low["decoupled"].any() else "does not hold" if len(low) else "undecided",
        evidence=f"Of {len(low)} runs with a mean loss of at most ln 2, {int(low['decoupled'].sum())} recall nothing: "
        f"{int(single.sum())} of {int((low['samples'] == 1).sum())} with one long text, {int(several.sum())} of "
        f"{int((low['samples'] > 1).sum())} with a phone book.",
    )


def _foretells(dtype: str, found: Microscope) -> list[Claim]:
    made = []
    for kind, single in KINDS.items():
        order = correlate(_failing(found, single))
        if order.n:
            ends = (np.nan, np.nan) if order.low is None or order.high is None else (order.low, order.high)
            made.append(
                Claim(
                    claim=f"the first token below ½ foretells the first failure, ρ ≥ {FORETELLS} ({dtype}, {kind})",
                    verdict=verdict(*ends, FORETELLS),
                    evidence=f"ρ {_rho(order)}, n = {order.n} samples of {order.clusters} cells.",
                )
            )
    return made


def _check(found: Microscope) -> HalfCheck:
    """Of the one precision that the frozen weights had."""
    (check,) = found.checks
    return check


def _of_kind(found: Microscope, single: bool) -> pd.DataFrame:
    """The samples of runs with one sample, or with several."""
    runs = found.runs.index[(found.runs["samples"] == 1) == single]
    return found.samples[found.samples["run"].isin(runs)]


def _failing(found: Microscope, single: bool) -> pd.DataFrame:
    mine = _of_kind(found, single)
    return mine[mine["first_below"].notna() & mine["first_failure"].notna()]


def _rho(order: Correlation) -> str:
    ends = None if order.low is None or order.high is None else (order.low, order.high)
    return number(order.rho, ends) or "none, since one of the two does not vary"


def _missed(missed: int, above: int) -> str:
    """A count with the upper end of a one-sided 95 % interval by Clopper and Pearson; tokens count as independent."""
    if not above:
        return "no token above ½"
    bound = stats.beta.ppf(0.95, missed + 1, above - missed) if missed < above else 1.0
    return f"{missed} of {above:,} (below {100 * bound:.3g} % with 95 % confidence)"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def serve(config: SweepConfig, folder: epath.Path) -> dict[str, Any]:
    """p of each token in float32, against what greedy decoding on the bfloat16 base says of it.

    Only tokens that decoding reaches with everything before them right are counted: up to the first failure.
    """
    from memlaw_jax.models import load_adapter, load_base
    from memlaw_jax.readout import free_run

    tokens, base = read_tokens(folder), load_base(config.model, "bfloat16")
    task, p, missed = config.made_task(), [], []
    for length in map(int, tokens.runs["length"].unique()):
        runs = tokens.runs[tokens.runs["length"] == length]
        samples = task.samples(base.tokenizer, length, max_length=base.config.max_positions)
        adapters = [load_adapter(folder / "adapters" / name) for name in runs["cell_id"]]
        for run, free in zip(runs.index, free_run(base, adapters, samples), strict=True):
            right = free.right[free.mask]
            table = tokens.table[tokens.table["run"] == run]
            reached = ~pd.Series(~right).groupby(table["sample"].to_numpy()).cummax().shift(fill_value=False)
            reached |= table["position"].to_numpy() == 0
            p.append(table["p"].to_numpy()[reached])
            missed.append(~right[reached])
    chance, wrong = np.concatenate(p), np.concatenate(missed)
    return {
        "tokens": len(chance),
        "above": int((chance > HALF).sum()),
        "missed": int(wrong.sum()),
        "missed_above": int((wrong & (chance > HALF)).sum()),
        "largest_p_missed": float(chance[wrong].max()) if wrong.any() else None,
    }
