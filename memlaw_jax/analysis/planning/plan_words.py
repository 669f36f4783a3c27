"""A plan in plain words, and what to be wary of in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from memlaw_jax.analysis.law.words import cautions
from memlaw_jax.analysis.planning.plan_reach import Observation, mixed_sizes, parameters_per_rank

if TYPE_CHECKING:
    from memlaw_jax.analysis.law.law import Law
    from memlaw_jax.analysis.planning.plan import Plan

# A rival better by more than this is named: under a true law it happens in fewer than one sweep in twenty.
RIVAL_AICC = 5.0
SCATTERED = 9.0  # three times as widely as independent samples


def describe_plan(plan: Plan) -> str:
    """The rank first, then what it costs, what was measured nearby, and every warning."""
    lines = [*_answer(plan), _predicted(plan), _size(plan), _training(plan), _measured(plan)]
    return "\n".join([line for line in lines if line] + [f"Warning: {text}" for text in plan.warnings])


def warnings(plan: Plan, law: Law) -> Iterator[str]:
    """A sentence each: how far the plan extrapolates, what its recall curve rests on, and the law's own cautions."""
    yield from _extrapolation(plan)
    yield from _curve(plan, law)
    yield from _contradiction(plan)
    yield from _adapters(plan, law)
    yield from cautions(law)
    yield from _rivals(law)
    yield from law.notes


def _answer(plan: Plan) -> Iterator[str]:
    what = "1 token needs" if plan.tokens == 1 else f"{plan.tokens:,} tokens need"
    rank = f"rank {plan.rank:,}" if plan.rank else "more than rank 1,000,000, which is no plan"
    span = f" ({_interval(plan)})" if plan.interval else ""
    if plan.goal == "recall":
        goal = (
            f"To be recalled word for word with a probability of {_percent(plan.recall)}, a text of"
            if plan.single
            else f"To recall {_percent(plan.recall)} of the samples word for word,"
        )
        yield f"{goal} {what.replace('need', 'needs') if plan.single and plan.tokens > 1 else what} {rank}{span}."
        return
    yield f"Recall cannot be planned: {plan.why}."
    goal = "a predicted final loss of ln 2 = 0.693 nats per answer token"
    doubt = ""
    if not plan.succeeded:
        doubt = (
            " At that mean loss many tokens are still below one half, so expect few samples word for word, if any; a "
            f"recall of {_percent(plan.recall)} takes more."
        )
    yield f"A weaker goal, {goal}: {what} {rank}{span}.{doubt}"


def _interval(plan: Plan) -> str:
    assert plan.interval
    low, high = plan.interval
    text = f"95 % interval {low:,} to {high:,}" if high else f"95 % interval {low:,} upwards, without an upper end"
    if plan.unreachable:
        text += f"; {_percent(plan.unreachable)} of the resamples reach it at no rank"
    return text


def _predicted(plan: Plan) -> str:
    if plan.rank is None or plan.predicted_final is None:
        return ""
    loss = f"{plan.predicted_final:.3g}".replace("-", "−")
    text = f"Predicted at that rank: a final loss of {loss} nats per answer token"
    if plan.predicted_final < 0:
        text += " (below zero means spare capacity; the real one ends just above zero)"
    if plan.predicted_recall is not None:
        text += f" and a recall of {_share(plan.predicted_recall)}"
    if plan.goal == "recall" and plan.rank_ln2:
        text += f". The mean loss should reach ln 2 at rank {plan.rank_ln2:,}, which is not recall yet"
    return text + "."


def _size(plan: Plan) -> str:
    if plan.effective_parameters is None or plan.bytes_float32 is None or plan.bytes_bfloat16 is None:
        return "" if plan.rank is None else "The results have no column effective_parameters, so the size is not known."
    return (
        f"The adapter has {plan.effective_parameters:,} parameters: {_bytes(plan.bytes_float32)} in float32, "
        f"{_bytes(plan.bytes_bfloat16)} in bfloat16."
    )


def _training(plan: Plan) -> str:
    cost = plan.budget
    if cost is None:
        return "The results have no columns steps and token_visits, so the training is not known."
    a_step = "all tokens" if cost.whole else f"{cost.tokens_per_step:,.4g} tokens"
    return (
        f"Training as at rank {cost.like_rank:,} with {cost.like_length:,} tokens: {cost.steps:,} steps of {a_step}, "
        f"{cost.token_visits:,} token visits. This assumes that each token must be seen {cost.exposures:,.4g} times, "
        "as there; the law itself holds for that training only."
    )


def _measured(plan: Plan) -> str:
    if plan.curve is None:
        return ""
    parts = []
    if plan.succeeded:
        parts.append(f"rank {plan.succeeded.rank:,} recalled {_seen(plan.succeeded)}")
    else:
        what = "a text" if plan.single else f"{_percent(plan.recall)} of the samples"
        parts.append(f"no rank recalled {what} of {plan.tokens:,} tokens or more")
    if plan.failed:
        parts.append(f"rank {plan.failed.rank:,} recalled {_seen(plan.failed)}")
    return f"Measured: {'; '.join(parts)}."


def _seen(one: Observation) -> str:
    runs = f"{one.runs} run" + ("" if one.runs == 1 else "s")
    if one.samples == 1:
        return f"{one.length:,} tokens in {one.recall * one.runs:.0f} of {runs}"
    samples = "" if one.samples is None else f" of {one.samples:,.4g} samples"
    return f"{_percent(one.recall)} of the samples of {one.length:,} tokens ({runs}{samples})"


def _extrapolation(plan: Plan) -> Iterator[str]:
    far = plan.reach
    if far.tokens_factor != 1:
        where = "times the longest length measured" if far.tokens_factor > 1 else "of the shortest length measured"
        yield f"{plan.tokens:,} tokens is {far.tokens_factor:.3g} {where}, so this is an extrapolation."
    if plan.rank is None or far.rank_factor is None or far.nearest is None:
        return
    if far.rank_factor != 1:
        where = "times the largest rank measured" if far.rank_factor > 1 else "of the smallest rank measured"
        yield f"rank {plan.rank:,} is {far.rank_factor:.3g} {where}, so this is an extrapolation."
    if not far.inside and far.rank_factor == 1 and far.tokens_factor == 1:
        rank, length = far.nearest
        yield (
            f"no cell was measured around rank {plan.rank:,} with {plan.tokens:,} tokens; the nearest has rank "
            f"{rank:,} and {length:,} tokens, a factor of {_factor(plan.rank, rank)} in rank and "
            f"{_factor(plan.tokens, length)} in length away."
        )


def _curve(plan: Plan, law: Law) -> Iterator[str]:
    curve = plan.curve
    if law.draws is None:
        yield "there is no interval because the law was fitted with bootstrap=0; fit it with bootstrap=400."
    if curve is None:
        return
    known = [cell for cell in law.cells if cell.exact_match is not None]
    if len(known) < len(law.cells):
        yield f"{len(law.cells) - len(known)} of {len(law.cells)} cells say nothing of recall and were left out of it."
    if curve.slope == 0:
        yield "measured recall does not rise with what the law predicts, so it says nothing of the rank needed."
        return
    if curve.highest < plan.recall:
        yield (
            f"no cell recalled {_percent(plan.recall)} of its samples; the most was {_percent(curve.highest)}, so the "
            "wanted recall is an extrapolation."
        )
    else:
        trials = sum(c.runs * (c.samples or 1) for c in known if (c.exact_match or 0) >= plan.recall)
        if trials * (1 - plan.recall) < 1:
            yield (
                f"only {trials:,.0f} samples were trained in cells that recalled {_percent(plan.recall)} or more, too "
                "few to tell that from a somewhat lower recall; the last step up to it comes from the curve's shape."
            )
    if curve.separated:
        yield (
            "every cell recalled all or nothing, so where recall sets in is known, but how fast it rises is not; the "
            "rank errs towards too large. Run more seeds, or ranks between, to narrow it."
        )
    if curve.dispersion > SCATTERED:
        yield (f"recall scatters about its curve {curve.dispersion**0.5:.2g} times as widely as samples alone would.")


def _contradiction(plan: Plan) -> Iterator[str]:
    if plan.goal != "recall" or plan.interval is None:
        return
    low, high = plan.interval
    one = plan.succeeded
    if one and one.rank < low:
        # A handful of samples that came back does not show that 99 of 100 would.
        few = one.runs * (one.samples or 1) * (1 - plan.recall) < 1
        verdict = "too few samples to settle it; more seeds there would" if few else "trust the measurement"
        yield f"rank {one.rank:,}, below the interval, recalled {_seen(one)}: {verdict}."
    one = plan.failed
    if one and high and one.rank > high:
        yield f"rank {one.rank:,}, above the interval, recalled {_seen(one)}: trust the measurement."


def _adapters(plan: Plan, law: Law) -> Iterator[str]:
    per_rank = parameters_per_rank(law.cells)
    if mixed_sizes(law.cells):
        yield "the adapters differ in more than their rank; the size is that of the median one."
    # A matrix of d_in × d_out takes d_in + d_out numbers a rank and has a rank of at most the smaller of the two.
    if per_rank and plan.rank and plan.rank > per_rank / 2:
        yield f"no adapter of this kind has more than rank {per_rank / 2:,.0f}; adapt more layers or modules."


def _rivals(law: Law) -> Iterator[str]:
    best = law.rivals and law.rivals.best
    if not law.rivals or not best or best is law.rivals.law:
        return
    gap = law.rivals.law.delta_aicc or 0.0
    if gap > RIVAL_AICC:
        yield (
            f"by AICc another form, {best.title}, describes these cells better than the law, by {gap:.3g}; so do not "
            "trust it far from the measured ranks and lengths."
        )


def _factor(a: float, b: float) -> str:
    return f"{max(a / b, b / a):.3g}"


def _percent(share: float) -> str:
    """Four digits, and more where they would round up to 100."""
    text = f"{100 * share:.4g}"
    return f"{100 * share:.9g} %" if text == "100" and share < 1 else f"{text} %"


def _share(share: float) -> str:
    """As many digits as it takes not to round up to 1."""
    return f"{share:.3f}" if share < 0.9995 else f"1 − {1 - share:.1g}"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
