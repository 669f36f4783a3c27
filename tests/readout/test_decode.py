"""Free-running decoding must say what verification, which never decodes, says it will (DESIGN.md, idea 9)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from models import tiny
from models.forward import random_adapter

from memlaw_jax import train
from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, LoraConfig, load_base
from memlaw_jax.readout import FreeRun, Sampling, decode, free_run, recall
from memlaw_jax.tasks import Sample
from memlaw_jax.training import OptimConfig

pytestmark = pytest.mark.usefixtures("quick_compiler")

LINEAR: dict[str, Any] = {"targets": ("q_proj", "v_proj", "down_proj"), "layers": (0, 2), "alpha": 4.0}
BYPASSES: dict[str, Any] = {"targets": ("mlp",), "layers": (1, 2)}
RNG = np.random.default_rng(2)
PROMPTS = [tuple(RNG.integers(0, 95, 1 + 2 * i % 7).tolist()) for i in range(6)]  # 1, 3, 5, 7, 2, 4 tokens
TOKENS = 9  # with a prompt, more than any window of the tiny models
DECODE = sys.modules["memlaw_jax.readout.decode"]  # by attribute it is the function


def made(base: Base, seed: int, **settings: Any) -> Adapter:
    """An adapter of real size: neither A nor B zero."""
    lora = LoraConfig(**settings)
    return Adapter(
        lora=lora,
        layers=lora.adapted_layers(base.config),
        weights=random_adapter(base.config, lora, seed),
        model=base.name,
        model_fingerprint=base.fingerprint,
    )


def spoilt(answer: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Another token at one position; −1 leaves the answer as it is."""
    return answer if at < 0 else (*answer[:at], (answer[at] + 1) % 95, *answer[at + 1 :])


def agrees(base: Base, adapters: Sequence[Adapter], samples: Sequence[Sample]) -> list[FreeRun]:
    """Decoding from the prompts alone and `free_run` against verification, on every sample."""
    plain = decode(base, adapters, [s.prompt for s in samples], tokens=[len(s.answer) for s in samples])
    runs, reports = free_run(base, adapters, samples), recall(base, adapters, samples)
    for decoded, run, report in zip(plain, runs, reports, strict=True):
        for row, (sample, ids) in enumerate(zip(samples, decoded, strict=True)):
            same = [one == other for one, other in zip(ids, sample.answer, strict=True)]
            assert report.recalled[row] == (ids == sample.answer)
            assert report.first_failures[row] == (-1 if all(same) else same.index(False))
            assert tuple(run.ids[row, : len(ids)]) == ids and not run.ids[row, len(ids) :].any()
            assert list(run.right[row, : len(ids)]) == same and not run.right[row, len(ids) :].any()
        np.testing.assert_array_equal(run.first_failures, report.first_failures)
        assert run.exact_match == report.exact_match and run.keys == report.keys
    return runs


@pytest.mark.parametrize("kind", ["bypasses", "linear"])
@pytest.mark.parametrize("name", tiny.CASES)
def test_what_is_decoded_is_what_verifies(name: str, kind: str, tmp_path: Path) -> None:
    """Every family, two ranks at once, prompts of unequal length, answers that fail where they were spoilt."""
    if kind == "bypasses" and name not in ("qwen3", "mistral"):
        pytest.skip("the bypass is the same in every family")
    base = load_base(tiny.write(tmp_path / "model", name))
    settings = LINEAR if kind == "linear" else BYPASSES
    adapters = [made(base, 1, rank=2, **settings), made(base, 2, rank=5, **settings)]
    decoded = decode(base, adapters, PROMPTS, tokens=TOKENS)
    assert len({ids for own in decoded for ids in own}) == 12  # the adapters say different things
    failures = [-1, 0, 1, 4, TOKENS - 1, -1]
    for index, own in enumerate(decoded):
        samples = [
            Sample(key=str(row), prompt=prompt, answer=spoilt(ids, at)[: TOKENS - row % 2], suffix=(96,))
            for row, (prompt, ids, at) in enumerate(zip(PROMPTS, own, failures, strict=True))
        ]
        runs = agrees(base, adapters, samples)
        assert runs[index].first_failures.tolist() == failures
        assert runs[index].exact_match == 2 / 6 and runs[1 - index].exact_match == 0


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 95, (7, 9)).tolist()
    return [Sample(key=str(i), prompt=tuple(ids[: 1 + i % 3]), answer=tuple(ids[3:])) for i, ids in enumerate(drawn)]


def trained(base: Base, samples: list[Sample], rates: dict[int, float], steps: int, **settings: Any) -> list[Adapter]:
    return [
        train(
            base, samples, lora=LoraConfig(rank=rank, **settings), optim=OptimConfig(steps=steps, learning_rate=rate)
        )[0]
        for rank, rate in rates.items()
    ]


@pytest.fixture(scope="module")
def bypassed(base: Base, samples: list[Sample]) -> list[Adapter]:
    return trained(base, samples, {8: 1e-3, 31: 3.5e-3, 32: 1.2e-2}, steps=120)


def test_trained_bypasses_decode_as_they_verify(base: Base, samples: list[Sample], bypassed: list[Adapter]) -> None:
    exact = [run.exact_match for run in agrees(base, bypassed, samples)]
    assert exact[0] < exact[-1] == 1 and any(0 < share < 1 for share in exact), exact


def test_trained_linear_adapters_decode_as_they_verify(base: Base, samples: list[Sample]) -> None:
    adapters = trained(base, samples, {2: 1e-2, 4: 3e-2}, steps=60, targets=("q_proj", "v_proj", "down_proj"))
    runs = agrees(base, adapters, samples)
    assert any(0 < run.token_accuracy < 1 for run in runs) and any(run.recalled.any() for run in runs)


def test_one_adapter_gives_one_run_and_none_is_the_base(
    base: Base, samples: list[Sample], bypassed: list[Adapter]
) -> None:
    several, one = free_run(base, bypassed, samples), free_run(base, bypassed[1], samples)
    assert isinstance(one, FreeRun)
    np.testing.assert_array_equal(one.ids, several[1].ids)
    alone, prompts = free_run(base, None, samples), [sample.prompt for sample in samples]
    decoded = decode(base, None, prompts, tokens=6)
    np.testing.assert_array_equal(alone.ids, decoded)
    assert recall(base, None, samples).first_failures.tolist() == alone.first_failures.tolist()
    texts = [[*prompt] for prompt in prompts]
    for _ in range(6):
        logits = np.asarray(base.logits(np.array([text + [0] * (16 - len(text)) for text in texts])))
        for text, own in zip(texts, logits, strict=True):
            text.append(int(own[len(text) - 1].argmax()))
    assert [tuple(text[-6:]) for text in texts] == decoded
    silent = jax.tree.map_with_path(lambda path, x: x * (path[-1].key == "a"), bypassed[0].weights)
    assert decode(base, dataclasses.replace(bypassed[0], weights=silent), prompts, tokens=6) == decoded


@pytest.mark.parametrize("sampling", [None, Sampling(seed=3)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("slots", [1, 2 * 2 * 16], ids=["one by one", "two by two"])
def test_chunks_and_neighbours_change_nothing(
    base: Base, monkeypatch: pytest.MonkeyPatch, slots: int, sampling: Sampling | None
) -> None:
    adapters = [made(base, 1, rank=2, **LINEAR), made(base, 2, rank=5, **LINEAR)]
    settings: dict[str, Any] = {"tokens": [9, 3, 8, 1, 9, 5], "sampling": sampling}
    whole = decode(base, adapters, PROMPTS, **settings)
    assert [len(ids) for ids in whole[0]] == settings["tokens"]
    monkeypatch.setattr(DECODE, "DECODE_SLOTS", slots)
    assert decode(base, adapters, PROMPTS, **settings) == whole
    fewer = settings | {"tokens": [9, 3, 8, 1]}
    assert decode(base, adapters[1], [*PROMPTS[:3], (5, 5, 5)], **fewer)[:3] == whole[1][:3]


def test_draws_follow_seed_and_row_alone(base: Base) -> None:
    def drawn(seed: int, prompts: Any = PROMPTS[:1] * 4) -> list[tuple[int, ...]]:
        return decode(base, None, prompts, tokens=9, sampling=Sampling(seed=seed))

    first = drawn(0)
    assert drawn(0) == first and not set(drawn(1)) & set(first)
    assert len(set(first)) == 4  # one prompt, four rows, four texts
    assert drawn(0, [(7,), PROMPTS[0], (8, 8), (9,)])[1] == first[1]
    cold = decode(base, None, PROMPTS, tokens=9, sampling=Sampling(temperature=1e-6))
    assert cold == decode(base, None, PROMPTS, tokens=9)


def test_a_row_ends_with_its_first_stop(base: Base) -> None:
    plain = decode(base, None, PROMPTS, tokens=9)
    stops = (plain[0][4], plain[1][2])
    assert plain[2:] != decode(base, None, PROMPTS, tokens=9, stop_ids=stops)[2:] or len(set(sum(plain, ()))) > 9
    for ids, cut in zip(plain, decode(base, None, PROMPTS, tokens=9, stop_ids=stops), strict=True):
        ends = [index for index, token in enumerate(ids) if token in stops]
        assert cut == (ids[: ends[0] + 1] if ends else ids)
    assert decode(base, None, PROMPTS[:1], tokens=9, stop_ids=plain[0][:1]) == [plain[0][:1]]


def test_a_bfloat16_base_decodes(tiny_dir: Path) -> None:
    """Its logits are 0.01 off or so; where the largest leads by more, the first token is the arg-max."""
    base = load_base(tiny_dir, dtype="bfloat16")
    adapter = made(base, 1, rank=2, **LINEAR)
    decoded = decode(base, adapter, PROMPTS, tokens=9)
    sure = 0
    for prompt, ids in zip(PROMPTS, decoded, strict=True):
        assert len(ids) == 9 and all(0 <= token < 97 for token in ids)
        row = np.array([[*prompt] + [0] * (8 - len(prompt))])
        logits = np.asarray(base.logits(row, adapter))[0, len(prompt) - 1]
        second, first = np.sort(logits)[-2:]
        if first - second > 0.1:
            sure += 1
            assert ids[0] == logits.argmax()
    assert sure >= 3


def test_a_diverged_adapter_says_nothing_right(base: Base, samples: list[Sample], bypassed: list[Adapter]) -> None:
    nan = dataclasses.replace(bypassed[0], weights=jax.tree.map(lambda x: x * np.nan, bypassed[0].weights))
    for sampling in (None, Sampling()):
        run = free_run(base, nan, samples, sampling)
        assert run.token_accuracy == 0 and set(run.first_failures.tolist()) == {0}


def test_samplings_of_an_answer_come_out_as_often_as_its_probability_says(
    base: Base, samples: list[Sample], bypassed: list[Adapter]
) -> None:
    """p_z of the report against 2,000 draws of each answer: five standard deviations, one in a million."""
    draws, report = 2000, recall(base, bypassed[1], samples)
    chances = report.extraction(1)
    row = int(np.abs(chances - 0.3).argmin())
    assert 0.02 < chances[row] < 0.9
    run = free_run(base, bypassed[1], [samples[row]] * draws, Sampling(seed=1))
    spread = np.sqrt(chances[row] * (1 - chances[row]) / draws)
    assert abs(run.exact_match - chances[row]) < 5 * spread
    low, high = run.interval(1 - 1e-6)
    assert low < chances[row] < high and high - low < 12 * spread
    warm = free_run(base, bypassed[1], [samples[row]] * draws, Sampling(seed=1, temperature=2.0))
    assert warm.exact_match < chances[row] - 5 * spread


def test_mistakes_are_told(base: Base, samples: list[Sample]) -> None:
    linear = made(base, 1, rank=2, **LINEAR)
    for adapters, word in (
        ([], "at least one"),
        ([linear, made(base, 1, rank=2, **BYPASSES)], "targets"),
        ([linear, made(base, 1, rank=2, **LINEAR | {"layers": (0, 1)})], "layers"),
    ):
        for call in (lambda a: decode(base, a, PROMPTS, tokens=1), lambda a: recall(base, a, samples)):
            with pytest.raises(UserError, match=word):
                call(adapters)
    for prompts, tokens, word in (
        ([], 1, "at least one"),
        ([(1,), ()], 1, "prompt 1 is empty"),
        ([(1,)], 0, "tokens is 0"),
        ([(1,), (2, 97)], 1, "token 97"),
        ([(1,), (2, -1)], 1, "token -1"),
        ([(1,), (2,)], [1, 256], "prompt 1 .* 257"),
    ):
        with pytest.raises(UserError, match=word):
            decode(base, None, prompts, tokens=tokens)
