"""A law in plain words."""

from __future__ import annotations

import numpy as np

from memlaw_jax.analysis.cells import SATURATED
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.problem import PARAMETERS
from memlaw_jax.analysis.signs import signs


def describe(law: Law, ln_vocab: float | None = None) -> str:
    """What was found, in a few sentences: exponents with intervals, what doubling does, cells, fit, and warnings.

    `ln_vocab` (nats) is the loss of a uniform guess; with it the text says how much of ΔL is unlearning.
    """
    lines = [_form(law), _exponents(law), _doubling(law), _simpler(law), _fit(law), _cells(law)]
    lines += law.rivals.words() if law.rivals else []
    if ln_vocab is not None:
        lines.append(_unlearning(law, ln_vocab))
    lines += [f"Warning: {text}" for text in [*cautions(law), *law.notes]]
    return signs("\n".join(line for line in lines if line))


def _form(law: Law) -> str:
    sign = "+" if law.b >= 0 else "−"
    who = f" for {law.method}" if law.method else ""
    return (
        f"Memory law{who}: ΔL = {law.C:.4g} · rank^{law.alpha:.3f} · length^(−{law.beta:.3f}) {sign} {abs(law.b):.3g} "
        "nats per answer token."
    )


def _exponents(law: Law) -> str:
    if law.draws is None:
        return f"α = {law.alpha:.3f}, β = {law.beta:.3f}, b = {law.b:.3f} nats (no intervals: bootstrap was off)."
    parts = [f"{sign} = {getattr(law, name):.3f} {_span(*law.interval(name))}" for name, sign in _SIGNS]
    return f"{', '.join(parts)} nats; 95 % intervals from {len(law.draws)} resamples of the cells.{_by_rank(law)}"


def _by_rank(law: Law) -> str:
    """A sentence where whole ranks decide more than cells do."""
    if law.jackknife is None:
        return ""
    cells, ranks = law.jackknife.cells["alpha"], law.jackknife.ranks["alpha"]
    if cells is None or ranks is None or ranks < 2 * cells:
        return ""
    return (
        f" Leaving out whole ranks gives α an error of {ranks:.2g}, leaving out cells {cells:.2g}: ranks differ in "
        "more than noise, and the intervals know of cells only."
    )


_SIGNS = (("alpha", "α"), ("beta", "β"), ("b", "b"))


def _doubling(law: Law) -> str:
    def effect(value: float, draws: np.ndarray | None) -> str:
        if draws is None:
            return _factor(value)
        low, high = np.percentile(draws, [2.5, 97.5])
        return f"{_factor(value)} [{_factor(low)}, {_factor(high)}]"

    a, b = (law.draw("alpha"), law.draw("beta")) if law.draws else (None, None)
    rank = effect(2**law.alpha, None if a is None else 2**a)
    length = effect(2**-law.beta, None if b is None else 2**-b)
    swap = effect(2 ** (law.beta / law.alpha), None if a is None or b is None else 2 ** (b / a))
    return (
        f"Doubling the rank multiplies the learned part, ΔL − b, by {rank}; doubling the length multiplies it by "
        f"{length}. To hold it when the text doubles, the rank must grow by a factor of {swap}."
    )


_CLAIMS = {
    "b = 0": "b is zero",
    "α = β": "the exponents are equal, so that only rank over length counts",
    "α = β = 1": "both exponents are one, so that every parameter stores the same amount",
}


def _simpler(law: Law) -> str:
    """What the tests of simpler laws say."""
    said = []
    for test in law.tests:
        p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.2g}"
        verdict = "is refuted" if test.p < 0.05 else "is not refuted"
        if test.p < 0.05 and law.draws and len(law.draws) > 2 and _resamples_allow(law, test.name):
            verdict = "is refuted by the misfit, but within the 95 % of the resamples, so perhaps not"
        said.append(f"that {_CLAIMS[test.name]} {verdict} ({p})")
    spare = len(law.used) - PARAMETERS
    few = f" Only {_count(spare, 'cell')} more than parameters: all of this leans on normal noise." if spare < 4 else ""
    return f"Simpler laws: {'; '.join(said)}.{few}" if said else ""


def _resamples_allow(law: Law, name: str) -> bool:
    """Whether a simpler law lies in the 95 % region of the bootstrap, which does not take the noise for even."""
    if name == "b = 0":
        low, high = law.interval("b")
        return low <= 0 <= high
    if name == "α = β":
        low, high = np.percentile(law.draw("alpha") - law.draw("beta"), [2.5, 97.5])
        return bool(low <= 0 <= high)
    centre, covariance, radius = law.ellipse()
    off = 1.0 - np.array(centre)
    return bool(off @ np.linalg.pinv(covariance) @ off <= radius)


def _fit(law: Law) -> str:
    seeds = f"; seeds of one cell differ by {law.seed_sd:.3g} nats" if law.seed_sd is not None else ""
    return (
        f"The law misses the cell means by {law.rmse:.3g} nats (RMSE, {100 * law.rmse_relative:.1f} % of ΔL's range"
        f"{seeds}); R² = {law.r2:.4f}, which any smooth surface reaches."
    )


def _cells(law: Law) -> str:
    used, dropped = law.used, law.dropped
    runs = sum(cell.runs_used for cell in used)
    ranks, lengths = len({cell.rank for cell in used}), len({cell.length for cell in used})
    text = (
        f"Used {len(used)} of {len(law.cells)} cells, {_count(runs, 'run')}, over {ranks} ranks and {lengths} lengths"
    )
    if dropped:
        loss = "own final loss" if law.filter == "paper" else "final loss, as the law predicts it,"
        how = "count as bounds of ΔL only" if law.filter == "tobit" else "were left out as saturated"
        text += f"; {len(dropped)} {how}: their {loss} is at or below ln 2"
    if law.diverged:
        text += f"; {_count(law.diverged, 'diverged run')} left out"
    return text + "."


def _unlearning(law: Law, ln_vocab: float) -> str:
    initial = float(np.mean([cell.loss_initial for cell in law.cells]))
    gap = initial - ln_vocab
    if gap <= 0:
        return f"The base starts at {initial:.2f} nats, below the uniform level ln V = {ln_vocab:.2f}."
    return (
        f"The base starts at {initial:.2f} nats, above the uniform level ln V = {ln_vocab:.2f}: {gap:.2f} nats of ΔL "
        "are unlearning rather than memory, and part of b is that."
    )


def cautions(law: Law) -> list[str]:
    """What to be wary of in this fit, a sentence each, from its flags and its filter."""
    flags = law.flags
    said = [
        (not flags.converged, "the fit did not converge, so do not use these numbers."),
        (flags.at_bound, "an exponent stands at the edge of its allowed range, so the data do not follow this law."),
        (flags.weakly_identified, "the exponents are weakly identified; add ranks or lengths over a wider range."),
        (
            flags.outliers_suspected and law.loss == "squared",
            "some runs lie far from the law, as badly trained ones do; fit with loss='huber' (--loss huber).",
        ),
        (
            flags.outliers_suspected and law.loss == "censored",
            "some runs lie far from the law, as badly trained ones do; fit with --filter predicted --loss huber.",
        ),
        (
            _bends(law),
            f"{_measured_open(law)} of the cells left out as saturated measured above ln 2: the law overshoots them.",
        ),
        (not flags.filter_settled, "some cells sit right at the saturation threshold and were left out."),
        (law.filter == "paper", "the filter 'paper' drops single runs by their own loss, which biases α down."),
    ]
    return [text for raised, text in said if raised]


def _measured_open(law: Law) -> int:
    """Cells that were dropped by prediction although their own mean final loss is above the threshold."""
    return sum(cell.loss_final > SATURATED for cell in law.dropped)


def _bends(law: Law) -> bool:
    """Whether these are too many for chance: under a law with a ceiling below the base's loss they are most."""
    return law.filter == "predicted" and _measured_open(law) >= max(3, 0.25 * len(law.dropped))


def _factor(value: float) -> str:
    return f"{value:.2f}" if value < 1e4 else f"{value:.3g}"


def _span(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
