"""The law's rivals: every form is fitted globally, compared fairly, and reported as it stands."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import least_squares, nnls

from memlaw_jax.analysis.cells import Cells, gather
from memlaw_jax.analysis.law import rivals as module
from memlaw_jax.analysis.law.filters import select
from memlaw_jax.analysis.law.least_squares import quality
from memlaw_jax.analysis.law.rival_fits import solve
from memlaw_jax.analysis.law.rival_forms import FORMS, LAW
from memlaw_jax.analysis.law.rivals import Rivals, compare_rivals

from .simulate import BASE, LONG, NARROW, Design, fit_cells, simulate

R, N = 8.0, 7000.0  # the reference cell r₀, ℓ₀ of the truths below, about the middle of BASE

# Each form as its formula says, in natural units, and a truth with ΔL of a few nats on BASE's grid.
MODELS = {
    "law": lambda r, n, C, alpha, beta, b: C * r**alpha * n**-beta + b,
    "no_offset": lambda r, n, C, alpha, beta: C * r**alpha * n**-beta,
    "ratio": lambda r, n, A, gamma, b: A * (r / n) ** gamma + b,
    "additive": lambda r, n, A, alpha, B, beta, b: A * r**alpha + B * n**-beta + b,
    "logarithmic": lambda r, n, A, B, b: A * np.log(r) - B * np.log(n) + b,
    "saturating_exponential": lambda r, n, A, C, alpha, beta: A * (1 - np.exp(-C * r**alpha * n**-beta)),
    "constant_capacity": lambda r, n, A, K, p: A * (1 + (A * n / (K * r)) ** p) ** (-1 / p),
    "curvature": lambda r, n, C, alpha, beta, delta, b: (
        C * np.exp(alpha * np.log(r / R) - beta * np.log(n / N) + delta * np.log(r / R) * np.log(n / N)) + b
    ),
}
TRUTHS = {
    "law": {"C": 20.0, "alpha": 0.6, "beta": 0.5, "b": 0.3},
    "no_offset": {"C": 30.0, "alpha": 0.4, "beta": 0.45},
    "ratio": {"A": 40.0, "gamma": 0.55, "b": -0.1},
    "additive": {"A": 0.3, "alpha": 0.35, "B": 60.0, "beta": 0.6, "b": -0.2},
    "logarithmic": {"A": 0.3, "B": 0.25, "b": 2.6},
    "saturating_exponential": {"A": 1.8, "C": 16.0, "alpha": 0.6, "beta": 0.5},
    "constant_capacity": {"A": 1.8, "K": 900.0, "p": 1.5},
    "curvature": {"C": 0.9, "alpha": 0.5, "beta": 0.4, "delta": -0.06, "b": 0.2},
}
BY_NAME = {form.name: form for form in FORMS}


def made(rank, length, delta, runs=None) -> Cells:
    """Cells with these ΔL, far from saturation."""
    delta = np.asarray(delta, float)
    return Cells(
        rank=np.asarray(rank),
        length=np.asarray(length),
        runs=np.ones(len(delta), int) if runs is None else np.asarray(runs),
        initial=np.full(len(delta), 100.0),
        final=100.0 - delta,
        delta=delta,
        low=delta,
        high=delta,
        scatter=np.zeros(len(delta)),
    )


def grid(ranks=BASE.ranks, lengths=BASE.lengths):
    return tuple(x.ravel() for x in np.meshgrid(ranks, lengths, indexing="ij"))


def truth_cells(name: str, noise: float, seed: int = 0) -> Cells:
    rank, length = grid()
    rng = np.random.default_rng([seed, 2026])
    delta = MODELS[name](rank.astype(float), length.astype(float), **TRUTHS[name])
    return made(rank, length, delta + noise * rng.standard_normal(len(delta)), rng.integers(1, 5, len(delta)))


def reference(cells: Cells):
    return np.log(cells.rank / R), np.log(cells.length / N), cells.runs[None].astype(float)


def used_cells(design: Design, s: int) -> Cells:
    frame = simulate(design, s)
    return gather(frame[select(frame, "predicted", lambda runs: fit_cells(gather(runs))).kept])


def compared(cells: Cells) -> Rivals:
    return compare_rivals(cells, fit_cells(cells))


def entry(rivals: Rivals, name: str):
    return next(e for e in rivals.entries if e.name == name)


def test_the_law_comes_first_and_every_form_has_a_truth_here():
    assert [form.name for form in FORMS] == list(MODELS) == list(TRUTHS)


@pytest.mark.parametrize("name", MODELS)
def test_without_noise_each_form_recovers_its_truth(name):
    cells = truth_cells(name, 0.0)
    form = BY_NAME[name]
    u, v, weights = reference(cells)
    fits = solve(form, u, v, cells.delta, weights)
    assert fits.found[0] and fits.converged[0]
    assert np.abs(fits.predict(form, u, v)[0] - cells.delta).max() < 1e-9
    found = form.natural(fits.coef[0], fits.theta[0], fits.offset[0], R, N)
    assert form.k == len(found) == len(TRUTHS[name])
    # Residuals of 1e-12 of ΔL times the worst conditioning (the additive form's offset against flat powers, 1e5).
    for key, value in TRUTHS[name].items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_formula_give_the_fitted_surface(name):
    """The parameters reported are those of the formula: refitted from noisy data, they predict what rmse says."""
    cells = truth_cells("curvature", 0.05)
    rivals = compared(cells)
    e = entry(rivals, name)
    rank, length = cells.rank.astype(float), cells.length.astype(float)
    if name == "curvature":
        rank, length = rank * R / rivals.rank_ref, length * N / rivals.length_ref
    miss = MODELS[name](rank, length, **e.parameters) - cells.delta
    assert np.sqrt((miss**2).mean()) == pytest.approx(e.rmse, rel=1e-7)


def random_starts_best(form, u, v, y, w, starts, rng):
    """Least weighted sum of squares that SciPy finds from random places in the box, all parameters free at once."""
    root, size = np.sqrt(w), len(form.axes)

    def columns(theta):
        phi = form.basis(np.asarray(theta)[None, :], u, v)[0][0]
        return np.vstack([phi, np.ones_like(u)]) if form.offset else phi

    def miss(p):
        return root * (p[size:] @ columns(p[:size]) - y)

    low = np.concatenate([form.low, np.zeros(form.columns), [-np.inf] * form.offset])
    high = np.concatenate([form.high, np.full(form.columns + form.offset, np.inf)])
    best = np.inf
    for _ in range(starts):
        theta = rng.uniform(form.low, form.high)
        basis = columns(theta)
        signed = np.vstack([basis, -np.ones_like(u)]) if form.offset else basis
        linear, _ = nnls((root * signed).T, root * y)
        if form.offset:
            linear = np.append(linear[:-2], linear[-2] - linear[-1])
        linear[: form.columns] = np.maximum(linear[: form.columns], 1e-6)
        p = np.clip(np.concatenate([theta, linear]), low, high)
        best = min(best, 2 * least_squares(miss, p, bounds=(low, high), x_scale="jac", max_nfev=60).cost)
    return best


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("truth", "noise"), [("law", 0.08), ("saturating_exponential", 0.5), ("own", 0.5)])
def test_no_random_start_beats_the_fit(name, truth, noise):
    cells = truth_cells(name if truth == "own" else truth, noise, seed=len(name))
    if noise > 0.1:  # noise as large as the signal on a few cells makes several valleys
        cells = cells.take(np.random.default_rng(len(name)).random(56) < 0.35)
    form = BY_NAME[name]
    u, v, weights = reference(cells)
    mine = solve(form, u, v, cells.delta, weights)
    theirs = random_starts_best(form, u, v, cells.delta, weights[0], 24 if form.axes else 1, np.random.default_rng(3))
    # Both stop within 1e-8 of a minimum; another valley would differ by far more.
    assert mine.sse[0] <= theirs * (1 + 1e-7)


@pytest.mark.parametrize("design", [BASE, LONG, NARROW], ids=["base", "long", "narrow"])
def test_aicc_and_parameters_of_the_law_are_those_of_its_own_report(design):
    cells = used_cells(design, 4)
    fit = fit_cells(cells)
    rivals = compare_rivals(cells, fit)
    found = quality(fit, cells)
    assert rivals.law.aicc == pytest.approx(found.aicc, rel=1e-12)
    assert rivals.law.rmse == pytest.approx(found.rmse, rel=1e-12)
    assert rivals.law.parameters == {"C": fit.constant, "alpha": fit.alpha, "beta": fit.beta, "b": fit.offset}
    assert not rivals.refitted


@pytest.mark.parametrize("s", range(6))
@pytest.mark.parametrize("truth", list(MODELS))
def test_a_special_case_never_fits_better_than_the_form_that_holds_it(truth, s):
    cells = truth_cells(truth, 0.1, seed=s)
    u, v, weights = reference(cells)
    law = fit_cells(cells)
    sse = {name: solve(BY_NAME[name], u, v, cells.delta, weights).sse[0] for name in ("law", "no_offset", "ratio")}
    start = [(law.alpha, law.beta, 0.0)]
    u, v = np.log(cells.rank / law.rank_ref), np.log(cells.length / law.length_ref)
    curved = solve(BY_NAME["curvature"], u, v, cells.delta, weights, starts=start).sse[0]
    slack = 1 + 1e-9
    assert curved <= sse["law"] * slack
    assert sse["law"] <= min(sse["no_offset"], sse["ratio"]) * slack
    assert sse["law"] == pytest.approx(law.sse, rel=1e-9)  # the law's own solver, by another grid


def test_held_out_errors_are_those_of_a_fit_to_the_other_cells():
    """By hand for the law, with its own solver; and near the noise of the cell means, which only the law's are."""
    cells = used_cells(BASE, 0)
    rivals = compared(cells)

    def by_hand(masks):
        misses = []
        for mask in masks:
            fit = fit_cells(cells.take(~mask))
            misses.append(fit.predict(cells.rank[mask], cells.length[mask]) - cells.delta[mask])
        return np.sqrt((np.concatenate(misses) ** 2).mean())

    assert rivals.largest_ranks == (32, 64) and rivals.longest_lengths == (24000, 32000)
    splits = {
        "largest_ranks": [cells.rank >= 32],
        "longest_lengths": [cells.length >= 24000],
        "leave_one_rank_out": [cells.rank == r for r in BASE.ranks],
    }
    for key, masks in splits.items():
        assert rivals.law.heldout[key] == pytest.approx(by_hand(masks), rel=1e-5)
        # Noise of a cell mean: hypot(0.01, 0.01 μ) ⊕ hypot(0.02, 0.02 μ)/√3 < 0.04 nats for μ < 1.9; extrapolating
        # three octaves of length or two of rank from 30 cells at most doubles it.
        assert rivals.law.heldout[key] < 0.08
        assert entry(rivals, "logarithmic").heldout[key] > 2 * rivals.law.heldout[key]


def test_a_law_that_is_no_least_squares_fit_is_refitted_and_said_so():
    cells = used_cells(BASE, 1)
    fit = fit_cells(cells)
    other = dataclasses.replace(fit, alpha=fit.alpha + 0.05)
    rivals = compare_rivals(cells, other)
    assert rivals.refitted and rivals.law.parameters["alpha"] == pytest.approx(fit.alpha, rel=1e-6)
    assert "least squares" in " ".join(rivals.words())


def test_rounding_alone_is_no_reason_to_prefer_a_form():
    rivals = compared(used_cells(BASE.without_noise(), 0))
    assert rivals.best is rivals.law
    # One parameter more costs 2.73 with 42 cells, whatever the residuals of 1e-15 are.
    assert entry(rivals, "curvature").delta_aicc == pytest.approx(2.733, abs=0.01)
    assert "disagrees" not in " ".join(rivals.words())


def test_everything_is_plain_json_and_comes_back():
    rivals = compared(used_cells(BASE, 2))
    content = json.loads(json.dumps(dataclasses.asdict(rivals), allow_nan=False))
    assert Rivals.from_dict(content) == rivals
    assert min(e.delta_aicc for e in rivals.entries) == 0.0
    assert compared(used_cells(BASE, 2)) == rivals


# Some law or other, for cells that have none of their own.
ESTIMATE = fit_cells(truth_cells("law", 0.0))
FIVE = {"rank": [1, 2, 4, 8, 8], "length": [1000, 2000, 4000, 4000, 8000]}
DEGENERATE = {
    "five cells": made(**FIVE, delta=[1.0, 1.1, 1.15, 1.4, 1.2]),
    "equal": made(*grid(), np.full(56, 0.7)),
    "all zero": made(*grid(), np.zeros(56)),
    "falling with rank": made(*grid(), -np.log(grid()[0]) + np.log(grid()[1])),
    "negative": made(*grid(), -1 - 1e-3 * grid()[1] ** 0.5),
    "two ranks": made(*grid(ranks=(2, 16)), np.linspace(1, 2, 16)),
    "two lengths": made(*grid(lengths=(1000, 4000)), np.linspace(1, 2, 14)),
    "two of each": made(*grid(ranks=(1, 2), lengths=(1000, 4000)), [1.0, 0.5, 2.0, 1.0]),
    "one line": made([1, 2, 4, 8, 16, 32, 64, 128], [1000 * 2**i for i in range(8)], np.linspace(1, 2, 8)),
    "huge": made(*grid(), 1e6 * MODELS["law"](*(x.astype(float) for x in grid()), **TRUTHS["law"])),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_cells_give_an_answer_and_never_an_exception(case):
    cells = DEGENERATE[case]
    with np.errstate(all="raise", under="ignore"):  # no silent nan either
        rivals = compare_rivals(cells, ESTIMATE)
    json.dumps(dataclasses.asdict(rivals), allow_nan=False)
    assert len(rivals.entries) == 8 and all(np.isfinite(e.rmse) for e in rivals.entries)
    assert all(isinstance(text, str) and "nan" not in text for text in rivals.words())


def test_too_few_cells_cannot_tell_forms_apart():
    rivals = compare_rivals(DEGENERATE["five cells"], ESTIMATE)
    assert rivals.best is None and rivals.law.aicc is None
    assert "5 cells are too few to tell the law from its rivals" in rivals.words()[0]
    assert all(value is None for value in rivals.law.heldout.values())
    two = compare_rivals(DEGENERATE["two ranks"], ESTIMATE)
    assert two.law.heldout["largest_ranks"] is None and two.law.heldout["leave_one_rank_out"] is None
    assert two.law.heldout["longest_lengths"] is not None
    # Two ranks do not fix an additive form's power of rank: nothing to predict a third with.
    assert entry(two, "additive").heldout["longest_lengths"] is None
    assert entry(two, "additive").parameters


def test_a_handful_of_cells_is_no_evidence_whatever_aicc_says():
    """AICc's penalty explodes at seven cells: 40 for the offset alone."""
    cells = truth_cells("law", 0.02).take(np.isin(np.arange(56), [0, 5, 17, 22, 34, 47, 50]))
    text = " ".join(compared(cells).words())
    assert "no evidence; add cells" in text and "strong" not in text


@dataclass(frozen=True, kw_only=True)
class Exponential(Design):
    """ΔL = A (1 − exp(−t)), t = c (r/r₀)^α (ℓ/ℓ₀)^(−β), r₀ and ℓ₀ the geometric means of the grid.

    Chosen before any run: A = 1.8 nats, as high as ΔL can be here before cells are dropped (L_init − ln 2 = 1.907) less
    three standard errors of a cell mean (0.03); c = ln 2, which puts the middle of the grid in the middle of the
    curve, at A/2; and BASE's exponents. ΔL runs from 0.16 to 1.80.
    """

    ceiling: float = 1.8

    def mean(self, rank, length):
        u, v = centred(self, rank, length)
        return self.ceiling * -np.expm1(-np.log(2) * np.exp(self.alpha * u - self.beta * v))


@dataclass(frozen=True, kw_only=True)
class Capacity(Design):
    """ΔL = A (1 + (x₀/x)^p)^(−1/p) with x = r/ℓ. The same ceiling; the middle of the grid at A/2 again; p = 2, neither
    a hyperbola (1) nor a corner. A constant capacity leaves no freedom in the exponents: ΔL runs from 0.03 to 1.80.
    """

    ceiling: float = 1.8
    p: float = 2.0

    def mean(self, rank, length):
        u, v = centred(self, rank, length)
        knee = (2**self.p - 1) ** (1 / self.p)
        return self.ceiling * (1 + (knee * np.exp(v - u)) ** self.p) ** (-1 / self.p)


def centred(design, rank, length):
    return (
        np.log(np.asarray(x, float)) - np.log(levels).mean()
        for x, levels in ((rank, design.ranks), (length, design.lengths))
    )


def gaps(design: Design, sims: range) -> np.ndarray:
    """AICc of the law over the least of all forms, one a simulation."""
    found = [compared(used_cells(design, s)).law.delta_aicc for s in sims]
    return np.array([np.nan if gap is None else gap for gap in found])


# Issue 7's table; and for the quick 8 a number that a method with just the table's share reaches in 97 % of eights.
# Measured on the hundred (seeds 0 to 99): 100 %, 100 %, 98 %; least ΔAICc of the law 64 and 101, greatest 6.9.
WRONG_LAW = [
    pytest.param(Exponential(), lambda gap: gap > 10, 0.90, 5, id="saturating exponential"),
    pytest.param(Capacity(), lambda gap: gap > 10, 0.97, 7, id="constant capacity"),
    pytest.param(BASE, lambda gap: gap <= 5, 0.95, 6, id="law"),
]


@pytest.mark.parametrize(("design", "right", "share", "quick"), WRONG_LAW)
def test_wrong_laws_are_recognised(design, right, share, quick):
    assert right(gaps(design, range(1000, 1008))).sum() >= quick


@pytest.mark.slow
@pytest.mark.parametrize(("design", "right", "share", "quick"), WRONG_LAW)
def test_wrong_laws_are_recognised_in_a_hundred(design, right, share, quick):
    assert right(gaps(design, range(100))).mean() >= share


def test_words_name_the_winner_when_it_is_not_the_law():
    for design, name in ((Exponential(), "saturating_exponential"), (Capacity(), "constant_capacity")):
        rivals = compared(used_cells(design, 0))
        assert rivals.best.name == name
        text = " ".join(rivals.words())
        assert f"the law is NOT the best of 8 forms but number {sum_before(rivals)}" in text
        assert f"{BY_NAME[name].title}, {BY_NAME[name].formula}, is ahead of it by {rivals.law.delta_aicc:.1f}" in text
        assert "strong evidence" in text


def sum_before(rivals: Rivals) -> int:
    return 1 + sum(e.delta_aicc < rivals.law.delta_aicc for e in rivals.entries)


def test_words_say_when_the_law_is_best_and_what_follows():
    rivals = compared(used_cells(BASE, 2))
    following = min((e for e in rivals.entries[1:]), key=lambda e: e.delta_aicc)
    text = " ".join(rivals.words())
    assert text.startswith("Of 8 forms the law describes the 42 cells best by AICc; " + following.title)
    assert f"{following.delta_aicc:.1f} behind" in text and "NOT" not in text
    assert "Held out at the largest ranks (32, 64): the law misses by" in text


def test_words_say_what_a_nested_form_is_to_the_law():
    curved = compared(truth_cells("curvature", 0.01))
    delta = curved.best.parameters["delta"]
    assert delta == pytest.approx(-0.06, abs=0.01)
    assert f"one more parameter, δ = {delta:.3g}: the exponent of rank falls by" in " ".join(curved.words())
    bare = compared(truth_cells("no_offset", 0.05, seed=1))
    assert bare.best.name == "no_offset" and "the law with b = 0" in " ".join(bare.words())
    ratio = compared(truth_cells("ratio", 0.05, seed=1))
    assert ratio.best.name == "ratio" and "the law with α = β = 0.5" in " ".join(ratio.words())


def test_words_note_where_aicc_and_held_out_cells_disagree():
    """Made entries, so that the words alone are on trial."""
    rivals = compared(used_cells(BASE, 2))
    better = dataclasses.replace(entry(rivals, "no_offset"), heldout={k: 1e-3 for k in rivals.law.heldout})
    changed = dataclasses.replace(rivals, entries=tuple(better if e.name == better.name else e for e in rivals.entries))
    assert sum("disagrees with AICc" in text for text in changed.words()) == 3
    assert "the law without an offset by 0.001" in " ".join(changed.words())


def test_it_is_fast():
    cells = used_cells(BASE.but(initial=100.0), 0)
    fit = fit_cells(cells)
    compare_rivals(cells, fit)
    start = time.process_time()
    compare_rivals(cells, fit)
    # About 0.15 s of one core; 1.5 s is the share of this in the 5 s that issue 7 leaves a whole fit.
    assert len(cells) == 56 and time.process_time() - start < 1.5


def test_the_module_needs_one_rank_at_least_at_the_far_end():
    assert module._far_end(np.array([4, 4, 8])) == (8,)
    assert module._far_end(np.arange(1, 9)) == (7, 8)
    assert LAW.name == "law"
