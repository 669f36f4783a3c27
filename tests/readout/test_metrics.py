"""Every metric against a loop over samples and tokens that knows nothing of masks."""

from __future__ import annotations

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
    clear = [p for p, _ in every if abs(p - 0.5) > 1e-6]  # at ½ itself, float32 decides
    above = sum(p > 0.5 for p in clear) / len(every)
    assert above - 1e-9 <= found.fraction_above_half <= above + (len(every) - len(clear)) / len(every) + 1e-9


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
