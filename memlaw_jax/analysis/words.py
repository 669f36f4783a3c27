"""A law in plain words."""

from __future__ import annotations

import numpy as np

from memlaw_jax.analysis.law import Law


def describe(law: Law, ln_vocab: float | None = None) -> str:
    """What was found, in a few sentences: exponents with intervals, what doubling does, cells, fit, and warnings.

    `ln_vocab` (nats) is the loss of a uniform guess; with it the text says how much of ΔL is unlearning.
    """
    lines = [_form(law), _exponents(law), _doubling(law), _fit(law), _cells(law)]
    if ln_vocab is not None:
        lines.append(_unlearning(law, ln_vocab))
    lines += [f"Warning: {text}" for text in [*cautions(law), *law.notes]]
    return "\n".join(line for line in lines if line)


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
    return f"{', '.join(parts)} nats; 95 % intervals from {len(law.draws)} resamples of the cells."


_SIGNS = (("alpha", "α"), ("beta", "β"), ("b", "b"))


def _doubling(law: Law) -> str:
    def effect(value: float, draws: np.ndarray | None) -> str:
        if draws is None:
            return f"{value:.2f}"
        low, high = np.percentile(draws, [2.5, 97.5])
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    a, b = (law.draw("alpha"), law.draw("beta")) if law.draws else (None, None)
    rank = effect(2**law.alpha, None if a is None else 2**a)
    length = effect(2**-law.beta, None if b is None else 2**-b)
    swap = effect(2 ** (law.beta / law.alpha), None if a is None or b is None else 2 ** (b / a))
    return (
        f"Doubling the rank multiplies the learned part, ΔL − b, by {rank}; doubling the length multiplies it by "
        f"{length}. To hold it when the text doubles, the rank must grow by a factor of {swap}."
    )


def _fit(law: Law) -> str:
    seeds = f"; seeds of one cell differ by {law.seed_sd:.3g} nats" if law.seed_sd is not None else ""
    return (
        f"The law misses the cell means by {law.rmse:.3g} nats (RMSE, {100 * law.rmse_relative:.1f} % of ΔL's range"
        f"{seeds}); R² = {law.r2:.4f}."
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
        text += f"; {len(dropped)} were left out as saturated: their {loss} is at or below ln 2"
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
        (not flags.filter_settled, "some cells sit right at the saturation threshold and were left out."),
        (law.filter == "paper", "the filter 'paper' drops single runs by their own loss, which biases α down."),
    ]
    return [text for raised, text in said if raised]


def _span(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
