"""Exact match without decoding: it must be what decoding gives (DESIGN.md, idea 9)."""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np
import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, Cut, LoraConfig, upper_weights
from memlaw_jax.readout import batch, recall, verify
from memlaw_jax.tasks import Encoded, Sample, pad
from memlaw_jax.training import Cell, OptimConfig, Outcome, train_cells

pytestmark = pytest.mark.usefixtures("quick_compiler")

ANSWER = 6
LORA = LoraConfig(rank=32)
# From as good as untrained to all recalled.
RATES = (1e-6, 2.5e-3, 3.5e-3, 4.5e-3, 1.2e-2)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 95, (7, 3 + ANSWER)).tolist()
    return [
        Sample(key=str(i), prompt=tuple(ids[: 1 + i % 3]), answer=tuple(ids[3:]), suffix=(96,))
        for i, ids in enumerate(drawn)
    ]


@pytest.fixture(scope="module")
def encoded(base: Base, samples: list[Sample]) -> Encoded:
    return pad(samples, pad_id=base.pad_id, multiple=16)


@pytest.fixture(scope="module")
def trained(base: Base, encoded: Encoded) -> list[Outcome]:
    cells = [Cell(lora=LORA, learning_rate=rate, name=str(rate)) for rate in RATES]
    outcomes = train_cells(base, encoded, cells, optim=OptimConfig(steps=120))
    return sorted(outcomes, key=lambda outcome: outcome.cell.learning_rate)


def adapter_of(base: Base, outcome: Outcome) -> Adapter:
    layers = LORA.adapted_layers(base.config)
    return Adapter(lora=LORA, layers=layers, weights=outcome.weights, model=base.name, model_fingerprint="")


def decode_greedily(base: Base, adapter: Adapter, samples: list[Sample]) -> list[tuple[int, ...]]:
    """The arg-max of the whole model's logits, fed back, once a token; every row padded to one width."""
    texts = [list(sample.prompt) for sample in samples]
    for _ in range(ANSWER):
        rows = np.array([text + [0] * (16 - len(text)) for text in texts], np.int32)
        logits = np.asarray(base.logits(rows, adapter))
        for text, scores in zip(texts, logits, strict=True):
            text.append(int(scores[len(text) - 1].argmax()))
    return [tuple(text[len(sample.prompt) :]) for text, sample in zip(texts, samples, strict=True)]


def test_greedy_decoding_gives_exact_match_and_the_first_failures(
    base: Base, samples: list[Sample], trained: list[Outcome]
) -> None:
    exact, failures = [], set()
    for outcome in trained:
        decoded = decode_greedily(base, adapter_of(base, outcome), samples)
        for sample, text, recalled, failure in zip(
            samples, decoded, outcome.final.recalled, outcome.final.first_failures, strict=True
        ):
            assert (text == sample.answer) == recalled
            agrees = [a == b for a, b in zip(text, sample.answer, strict=True)]
            assert failure == (-1 if all(agrees) else agrees.index(False))
            failures.add(int(failure))
        assert outcome.final.exact_match == np.mean([t == s.answer for t, s in zip(decoded, samples, strict=True)])
        exact.append(outcome.final.exact_match)
    # These adapters must span the range, or the test would say little.
    assert exact[0] == 0 and exact[-1] == 1 and any(0 < share < 1 for share in exact)
    assert {-1, 0} < failures


def test_a_token_above_one_half_is_recalled(trained: list[Outcome]) -> None:
    """The paper's second claim: p > ½ is certainly the arg-max."""
    seen = 0
    for outcome in trained:
        above = (outcome.final.nats < np.log(2) - 1e-6) & outcome.final.mask
        assert outcome.final.right[above].all()
        seen += int(above.sum())
    assert seen > 20


def test_recall_reports_what_training_did(
    base: Base, samples: list[Sample], encoded: Encoded, trained: list[Outcome]
) -> None:
    report = recall(base, adapter_of(base, trained[2]), samples)
    np.testing.assert_array_equal(report.right[report.mask], trained[2].final.right[trained[2].final.mask])
    # One adapter in place of five: float32 sums in another order, losses of up to 10.
    np.testing.assert_allclose(report.nats[report.mask], trained[2].final.nats[trained[2].final.mask], atol=1e-4)
    assert report.keys == encoded.keys == tuple("0123456")


@pytest.mark.parametrize("tokens", [1, 5 * 16 * 3, 5 * 16 * 7], ids=["one by one", "3 and 3 and 1", "all at once"])
def test_verifying_in_chunks_changes_nothing(
    base: Base, encoded: Encoded, trained: list[Outcome], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    # Not by attribute: `memlaw_jax.readout.verify` is the function.
    monkeypatch.setattr(sys.modules["memlaw_jax.readout.verify"], "VERIFY_TOKENS", tokens)
    nats, right = verify(*scene(base, encoded, trained))
    for lane, outcome in enumerate(trained):
        np.testing.assert_allclose(nats[lane][encoded.answer_mask], outcome.final.nats[encoded.answer_mask], atol=1e-4)
        np.testing.assert_array_equal(right[lane][encoded.answer_mask], outcome.final.right[encoded.answer_mask])


def scene(base: Base, encoded: Encoded, trained: list[Outcome]) -> tuple[Any, ...]:
    cut = Cut.of(base.config, LORA)
    weights = jax.tree.map(lambda *leaves: np.stack(leaves), *[outcome.weights for outcome in trained])
    upper, data = upper_weights(base.config, base.params, cut), batch.prepare(base, encoded, cut)
    return base.config, cut, upper, data, weights, np.ones(len(trained), np.float32)


def test_features_in_chunks_are_those_of_one_pass(
    base: Base, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Cut.of(base.config, LORA)
    whole = batch.prepare(base, encoded, cut)
    monkeypatch.setattr(batch, "FEATURE_TOKENS", 3 * 16)  # 3 and 3 and 1 samples
    parts = batch.prepare(base, encoded, cut)
    assert parts.features.hidden.shape == (7, 16, 64)
    for one, other in zip(jax.tree.leaves(whole.features), jax.tree.leaves(parts.features), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # float32 of unit scale


def test_an_empty_row_has_no_answer(base: Base, encoded: Encoded) -> None:
    data = batch.prepare(base, encoded, Cut.of(base.config, LORA))
    picked = data.pick(np.int32(0), np.array([2, -1, 6, -1]))
    for mask, whole in ((picked.answer_mask, data.answer_mask[0]), (picked.train_mask, data.train_mask[0])):
        np.testing.assert_array_equal(mask[::2], whole[np.array([2, 6])])
        assert not np.asarray(mask)[1::2].any()
    np.testing.assert_array_equal(picked.labels[::2], data.labels[0, np.array([2, 6])])


def test_an_adapter_of_another_model_is_refused(base: Base, samples: list[Sample], trained: list[Outcome]) -> None:
    adapter = adapter_of(base, trained[0])
    elsewhere = Adapter(
        lora=LORA, layers=(1,), weights=adapter.weights, model="other", model_fingerprint=""
    )  # fmt: skip
    with pytest.raises(UserError, match="other"):
        recall(base, elsewhere, samples)
