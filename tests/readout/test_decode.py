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

from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, LoraConfig, load_base
from memlaw_jax.readout import FreeRun, Sampling, decode, encode, free_run, recall
from memlaw_jax.tasks import Sample
from memlaw_jax.training import Cell, OptimConfig, train_cells

pytestmark = pytest.mark.usefixtures("quick_compiler")

LINEAR: dict[str, Any] = {"targets": ("q_proj", "v_proj", "down_proj"), "alpha": 4.0}
BYPASSES: dict[str, Any] = {"targets": ("mlp",), "layers": (1, 2)}
RNG = np.random.default_rng(2)
PROMPTS = [tuple(RNG.integers(0, 95, length).tolist()) for length in (1, 3, 9, 7, 2, 4)]
TOKENS = 7  # 16 slots, more than any window of the tiny models
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


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, LINEAR) for name in tiny.CASES), ("qwen3", BYPASSES), ("mistral", LINEAR | {"layers": (1, 3)})],
)
def test_what_is_decoded_is_what_verifies(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Every family, two ranks at once, prompts of unequal length, answers that fail where they were spoilt."""
    base = load_base(tiny.write(tmp_path / "model", name))
    base = dataclasses.replace(base, params=jax.tree.map(np.asarray, base.params))  # its slices compile nothing
    adapters = [made(base, 1, rank=2, **settings), made(base, 2, rank=5, **settings)]
    decoded = decode(base, adapters, PROMPTS, tokens=TOKENS)
    failures = [-1, 0, 1, 4, TOKENS - 1, -1]
    samples = [
        Sample(key=str(row), prompt=prompt, answer=spoilt(decoded[row % 2][row], at))
        for row, (prompt, at) in enumerate(zip(PROMPTS, failures, strict=True))
    ]
    runs = agrees(base, adapters, samples)
    for row, failure in enumerate(failures):
        assert runs[row % 2].first_failures[row] == failure
    assert decoded[0] != decoded[1] and all(0 < run.exact_match < 1 for run in runs)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 95, (7, 9)).tolist()
    return [Sample(key=str(i), prompt=tuple(ids[: 1 + i % 3]), answer=tuple(ids[3:])) for i, ids in enumerate(drawn)]


def trained(base: Base, samples: list[Sample], rates: dict[int, float], steps: int, **settings: Any) -> list[Adapter]:
    """Adapters by rank, each trained at its own rate, all of them at once."""
    cells = [Cell(lora=LoraConfig(rank=rank, **settings), learning_rate=rate) for rank, rate in rates.items()]
    outcomes = train_cells(base, encode(base, samples), cells, optim=OptimConfig(steps=steps))
    return sorted((outcome.adapter(base) for outcome in outcomes), key=lambda adapter: adapter.lora.rank)


@pytest.fixture(scope="module")
def bypassed(base: Base, samples: list[Sample]) -> list[Adapter]:
    return trained(base, samples, {8: 1e-3, 31: 3e-3, 32: 1.2e-2}, steps=120)


def test_trained_bypasses_decode_as_they_verify(base: Base, samples: list[Sample], bypassed: list[Adapter]) -> None:
    exact = [run.exact_match for run in agrees(base, bypassed, samples)]
    assert exact[0] < exact[-1] == 1 and any(0 < share < 1 for share in exact), exact


def test_trained_linear_adapters_decode_as_they_verify(base: Base, samples: list[Sample]) -> None:
    adapters = trained(base, samples, {2: 1e-3, 3: 3e-3}, steps=80, targets=("q_proj", "v_proj"), init="peft")
    exact = [run.exact_match for run in agrees(base, adapters, samples)]
    assert any(0 < share < 1 for share in exact), exact


def test_one_adapter_gives_one_run_and_none_is_the_base(
    base: Base, samples: list[Sample], bypassed: list[Adapter]
) -> None:
    one = free_run(base, bypassed[1], samples)
    assert isinstance(one, FreeRun) and one.keys == tuple("0123456")
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


@pytest.mark.parametrize(
    ("slots", "sampling"), [(1, None), (2 * 4 * 16, Sampling(seed=3))], ids=["one by one", "sampled, three by three"]
)
def test_chunks_and_neighbours_change_nothing(
    base: Base, monkeypatch: pytest.MonkeyPatch, slots: int, sampling: Sampling | None
) -> None:
    adapters = [made(base, 1, rank=2, **LINEAR), made(base, 2, rank=5, **LINEAR)]
    settings: dict[str, Any] = {"tokens": [7, 3, 6, 1, 7, 5], "sampling": sampling}
    whole = decode(base, adapters, PROMPTS, **settings)
    assert [len(ids) for ids in whole[0]] == settings["tokens"]
    monkeypatch.setattr(DECODE, "DECODE_SLOTS", slots)
    assert decode(base, adapters, PROMPTS, **settings) == whole
    if slots == 1:  # the same programs
        others = [*PROMPTS[:3], *[(5, 5, 5)] * 3]
        assert decode(base, adapters, others, **settings)[1][:3] == whole[1][:3]


def test_draws_follow_seed_and_row_alone(base: Base) -> None:
    def drawn(seed: int, prompts: Any = PROMPTS[:1] * 4) -> list[tuple[int, ...]]:
        return decode(base, None, prompts, tokens=TOKENS, sampling=Sampling(seed=seed))

    first = drawn(0)
    assert drawn(0) == first and not set(drawn(1)) & set(first)
    assert len(set(first)) == 4  # one prompt, four rows, four texts
    assert drawn(0, [(7,), PROMPTS[0], (8,), (9,)])[1] == first[1]
    cold = decode(base, None, PROMPTS, tokens=TOKENS, sampling=Sampling(temperature=1e-6))
    assert cold == decode(base, None, PROMPTS, tokens=TOKENS)


def test_a_row_ends_with_its_first_stop(base: Base) -> None:
    plain = decode(base, None, PROMPTS, tokens=TOKENS)
    stops = plain[0][4], plain[1][2]
    for ids, cut in zip(plain, decode(base, None, PROMPTS, tokens=TOKENS, stop_ids=stops), strict=True):
        ends = [index for index, token in enumerate(ids) if token in stops]
        assert cut == (ids[: ends[0] + 1] if ends else ids)
    assert decode(base, None, PROMPTS, tokens=TOKENS, stop_ids=plain[0][:1] * 2)[0] == plain[0][:1]


def test_a_bfloat16_base_decodes(tiny_dir: Path) -> None:
    """Its logits are 0.01 off or so; where the largest leads by more, the first token is the arg-max."""
    base = load_base(tiny_dir, dtype="bfloat16")
    adapter = made(base, 1, rank=2, **LINEAR)
    decoded = decode(base, adapter, PROMPTS, tokens=TOKENS)
    sure = 0
    for prompt, ids in zip(PROMPTS, decoded, strict=True):
        assert len(ids) == TOKENS and all(0 <= token < 97 for token in ids)
        row = np.array([[*prompt] + [0] * (16 - len(prompt))])
        logits = np.asarray(base.logits(row, adapter))[0, len(prompt) - 1]
        second, first = np.sort(logits)[-2:]
        if first - second > 0.1:
            sure += 1
            assert ids[0] == logits.argmax()
    assert sure >= 3


def test_a_diverged_adapter_says_nothing_right(base: Base, samples: list[Sample], bypassed: list[Adapter]) -> None:
    nan = dataclasses.replace(bypassed[0], weights=jax.tree.map(lambda x: x * np.nan, bypassed[0].weights))
    run = free_run(base, nan, samples)
    assert run.token_accuracy == 0 and set(run.first_failures.tolist()) == {0}


def test_samplings_of_an_answer_come_out_as_often_as_its_probability_says(
    base: Base, samples: list[Sample], bypassed: list[Adapter]
) -> None:
    """p_z of the report against 1,000 draws of each answer: five standard deviations, one in a million."""
    draws, report = 1000, recall(base, bypassed[-1], samples)
    chances = report.extraction(1)
    row = int(np.abs(chances - 0.3).argmin())
    assert 0.05 < chances[row] < 0.9, chances
    run = free_run(base, bypassed[-1], [samples[row]] * draws, Sampling(seed=1))
    spread = np.sqrt(chances[row] * (1 - chances[row]) / draws)
    assert abs(run.exact_match - chances[row]) < 5 * spread
    low, high = run.interval(1 - 1e-6)
    assert low < chances[row] < high and high - low < 12 * spread
    warm = free_run(base, bypassed[-1], [samples[row]] * draws, Sampling(seed=1, temperature=2.0))
    assert warm.exact_match < chances[row] - 5 * spread


def test_mistakes_are_told(base: Base, samples: list[Sample]) -> None:
    linear = made(base, 1, rank=2, **LINEAR)
    for adapters, word in (
        ([], "at least one"),
        ([linear, made(base, 1, rank=2, **BYPASSES)], "targets"),
        ([linear, made(base, 1, rank=2, **LINEAR, layers=(0, 1))], "layers"),
    ):
        for call in (lambda a: decode(base, a, PROMPTS, tokens=1), lambda a: recall(base, a, samples)):
            with pytest.raises(UserError, match=word):
                call(adapters)
    for prompts, tokens, word in (
        ([], 1, "at least one"),
        ([(1,), ()], 1, "prompt 1 is empty"),
        ([(1,)], 0, "tokens is 0"),
        ([(1,)], [1, 2], "2 numbers for 1"),
        ([(1,), (2, 97)], 1, "token 97"),
        ([(1,), (2, -1)], 1, "token -1"),
        ([(1,), (2,)], [1, 256], "prompt 1 .* 257"),
    ):
        with pytest.raises(UserError, match=word):
            decode(base, None, prompts, tokens=tokens)


def test_other_numbers_of_rows_share_compiled_programs(base: Base) -> None:
    """A sweep decodes what each cell missed, another number of rows every time; compiling costs more than decoding."""
    programs = DECODE._continue._cache_size()
    for rows in range(1, 7):
        decode(base, None, PROMPTS[:1] * rows, tokens=2)
    assert DECODE._continue._cache_size() - programs <= 4  # 1, 2, 4 and 8 rows
