"""Every metric against a loop over samples and tokens that knows nothing of masks."""

from __future__ import annotations

from decimal import Decimal, localcontext
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlaw_jax.errors import UserError
from memlaw_jax.readout import RecallReport

# For each sample its counted tokens: (probability, whether it is the arg-max).
token = st.tuples(st.floats(2**-20, 1, width=32), st.booleans())
samples = st.lists(st.lists(token, min_size=1, max_size=5), min_size=1, max_size=4)


def report(counted: list[list[tuple[float, bool]]]) -> RecallReport:
    """The arrays of a report; slots that are not counted hold what would spoil any metric."""
    shape = len(counted), max(len(tokens) for tokens in counted) + 1
    nats, right = np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
    mask = np.zeros(shape, bool)
    right[::2] = True
    for row, tokens in enumerate(counted):
        for slot, (probability, is_right) in enumerate(tokens):
            nats[row, slot], right[row, slot], mask[row, slot] = -np.log(probability), is_right, True
    return RecallReport(nats=nats, right=right, mask=mask, keys=tuple(map(str, range(len(counted)))))


@given(counted=samples)
@settings(max_examples=150, deadline=None)
def test_metrics_are_what_counting_gives(counted: list[list[tuple[float, bool]]]) -> None:
    found, every = report(counted), [entry for tokens in counted for entry in tokens]
    # −ln p of a float32 probability, stored in float32.
    assert found.loss == pytest.approx(np.mean([-np.log(p) for p, _ in every]), rel=1e-5, abs=1e-6)
    assert found.p_min == pytest.approx(min(p for p, _ in every), rel=1e-5)
    assert found.token_accuracy == pytest.approx(sum(is_right for _, is_right in every) / len(every))
    failures = []
    for tokens in counted:
        failure = -1
        for count, (_, is_right) in enumerate(tokens):
            if not is_right:
                failure = count
                break
        failures.append(failure)
    assert list(found.first_failures) == failures
    assert list(found.recalled) == [failure == -1 for failure in failures]
    assert found.exact_match == pytest.approx(failures.count(-1) / len(failures))
    failed = [failure for failure in failures if failure >= 0]
    assert found.first_failure == (pytest.approx(sum(failed) / len(failed)) if failed else None)
    # Without p = ½ itself, where float32 decides
    if all(abs(p - 0.5) > 1e-6 for p, _ in every):
        assert found.above_half_missed == sum(p > 0.5 and not is_right for p, is_right in every)
        below = sum(p < 0.5 and is_right for p, is_right in every)
        assert found.recalled_below_half == pytest.approx(below / len(every))
    clear = [p for p, _ in every if abs(p - 0.5) > 1e-6]  # at ½ itself, float32 decides
    above = sum(p > 0.5 for p in clear) / len(every)
    assert above - 1e-9 <= found.fraction_above_half <= above + (len(every) - len(clear)) / len(every) + 1e-9


@given(exact=st.integers(0, 30), more=st.integers(0, 30), level=st.sampled_from([0.5, 0.95, 0.999]))
def test_the_interval_is_wilsons(exact: int, more: int, level: float) -> None:
    """His formula, written out (Wilson 1927): the rates p with |p̂ − p| = z·√(p(1 − p)/n)."""
    n = exact + more
    if not n:
        return
    found = report([[(0.5, row < exact)] for row in range(n)])
    z, share = NormalDist().inv_cdf((1 + level) / 2), exact / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert found.interval(level) == pytest.approx((centre - half, centre + half), abs=1e-9)


def whole(nats: list[float]) -> RecallReport:
    """Answers of one token, whose nats are those of the sample."""
    column = np.array(nats)[:, None]
    seen = np.ones_like(column, bool)
    return RecallReport(nats=column, right=seen, mask=seen, keys=tuple(map(str, range(len(nats)))))


def once_in(nats: float, draws: int) -> Decimal:
    """1 − (1 − p)ⁿ in 700 digits."""
    with localcontext(prec=700, Emin=-(10**6)):
        return 1 - (1 - (-Decimal(nats)).exp()) ** draws


chances = st.floats(1e-12, 700)


@given(nats=st.lists(chances, min_size=1, max_size=4), draws=st.integers(1, 9) | st.integers(1, 10**18))
@settings(max_examples=60, deadline=None)
def test_extraction_is_exact_for_tiny_chances_and_many_draws(nats: list[float], draws: int) -> None:
    exact = [float(once_in(value, draws)) for value in nats]
    np.testing.assert_allclose(whole(nats).extraction(draws), exact, rtol=1e-9)


@given(nats=st.floats(1e-6, 30), wanted=st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_the_draws_needed_are_the_fewest_that_do(nats: float, wanted: float) -> None:
    """And a sample is (n, p)-discoverable from that n on."""
    found = whole([nats])
    needed = int(found.draws_needed(wanted)[0])
    slack = 1e-9 * wanted  # at equality, float64 decides
    assert float(once_in(nats, needed)) >= wanted - slack
    assert needed == 1 or float(once_in(nats, needed - 1)) < wanted + slack
    assert found.discoverable(2 * needed, wanted - slack) == 1
    assert needed == 1 or found.discoverable(max(1, needed // 2), wanted + slack) == 0


def test_extraction_of_whole_answers() -> None:
    """By hand: p_z is the product over an answer's counted tokens, whatever stands in the others."""
    found = report([[(0.5, True), (0.5, False)], [(1.0, True)], [(2.0**-20, False)] * 5])
    np.testing.assert_allclose(found.sample_nats, np.log(2) * np.array([2, 0, 100]), rtol=1e-6)
    np.testing.assert_allclose(found.extraction(2), [1 - 0.75**2, 1, 2.0**-99], rtol=1e-4)
    np.testing.assert_allclose(found.extraction(np.array([3, 1, 2**40])), [1 - 0.75**3, 1, 2.0**-60], rtol=1e-4)
    assert found.discoverable(2, 0.4) == pytest.approx(2 / 3) and found.discoverable(1, 0.3) == pytest.approx(1 / 3)
    assert found.draws_needed(0.4)[:2].tolist() == [2, 1]
    assert whole([800.0, np.inf, 0.0]).draws_needed(0.5).tolist() == [np.inf, np.inf, 1]
    assert whole([800.0, np.inf, 0.0]).extraction(10**9).tolist() == [0, 0, 1]
    for call in (
        lambda: found.extraction(0), lambda: found.discoverable(1, 1.0), lambda: found.draws_needed(0.0),
        lambda: found.interval(1.0),
    ):  # fmt: skip
        with pytest.raises(UserError, match="must be"):
            call()


def test_a_mean_is_over_tokens_not_over_samples() -> None:
    found = report([[(0.5, True)], [(0.25, False)] * 3])
    assert found.loss == pytest.approx(np.log(2) * (1 + 3 * 2) / 4)
    assert found.token_accuracy == 0.25 and found.exact_match == 0.5


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no answer token"):
        RecallReport(nats=np.zeros((1, 2)), right=np.ones((1, 2), bool), mask=np.zeros((1, 2), bool), keys=("a",))


def test_a_diverged_adapter_recalls_nothing_and_has_a_report() -> None:
    nan = np.full((1, 2), np.nan, np.float32)
    found = RecallReport(nats=nan, right=np.zeros((1, 2), bool), mask=np.ones((1, 2), bool), keys=("a",))
    assert np.isnan(found.loss) and np.isnan(found.p_min)
    assert found.exact_match == 0 == found.fraction_above_half and found.first_failure == 0
