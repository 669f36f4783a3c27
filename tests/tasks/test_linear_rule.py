from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import HasHeldout, LinearRule, LongContext, PhoneBook, RecordsTask, Sample, Task, make_task

if TYPE_CHECKING:
    from memlaw_jax.models import Base

GOLDEN = [(39, 79, 519), (71, 4, 240), (3, 7, 51)]
GOLDEN_HELDOUT = [(37, 27, 253), (99, 28, 444), (99, 37, 489)]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_back(tokenizer: PreTrainedTokenizerFast, samples: list[Sample]) -> list[tuple[int, int, int]]:
    """x, y and the answer, out of the token ids."""
    triples = []
    for sample in samples:
        prompt, answer = tokenizer.decode(sample.prompt), tokenizer.decode(sample.answer)
        query = re.fullmatch(r"f\((\d+), (\d+)\) =", prompt)
        assert query and re.fullmatch(r"-?\d+", answer), (prompt, answer)
        triples.append((int(query[1]), int(query[2]), int(answer)))
    return triples


def test_the_default_is_the_papers_rule(plain: PreTrainedTokenizerFast):
    task = LinearRule()
    training = read_back(plain, task.samples(plain, None))
    heldout = read_back(plain, task.heldout_samples(plain))
    assert (len(training), len(heldout)) == (500, 200)
    assert all(value == 3 * x + 5 * y + 7 for x, y, value in training + heldout)
    assert max(value for _, _, value in training + heldout) < 1000
    # Uniform over 0 … 99: the mean of 1,400 draws lies within five standard errors of 49.5.
    draws = [number for x, y, _ in training + heldout for number in (x, y)]
    assert min(draws) >= 0 and max(draws) <= 99
    assert abs(sum(draws) / len(draws) - 49.5) < 5 * (9999 / 12 / len(draws)) ** 0.5


@quick
@given(
    a=st.integers(-9, 9),
    b=st.integers(-9, 9),
    c=st.integers(-99, 99),
    largest=st.integers(3, 1500),
    seed=st.integers(0, 10**9),
    pairs=st.integers(1, 10),
    heldout=st.integers(0, 6),
)
def test_every_text_obeys_its_rule_and_no_pair_comes_twice(
    bytes_only: PreTrainedTokenizerFast, a: int, b: int, c: int, largest: int, seed: int, pairs: int, heldout: int
):
    task = LinearRule(a=a, b=b, c=c, largest=largest, seed=seed, pairs=pairs, heldout=heldout)
    training = read_back(bytes_only, task.samples(bytes_only, None))
    unseen = read_back(bytes_only, task.heldout_samples(bytes_only))
    assert (len(training), len(unseen)) == (pairs, heldout)
    assert all(value == a * x + b * y + c for x, y, value in training + unseen)
    assert len({(x, y) for x, y, _ in training + unseen}) == pairs + heldout
    assert all(0 <= number <= largest for x, y, _ in training + unseen for number in (x, y))


@quick
@given(seed=st.integers(0, 10**6), length=st.integers(1, 200))
def test_a_length_takes_the_fewest_first_pairs_and_leaves_the_held_out_ones_alone(
    bytes_only: PreTrainedTokenizerFast, seed: int, length: int
):
    task = LinearRule(seed=seed, pairs=250, heldout=50)
    everything, taken = task.samples(bytes_only, None), task.samples(bytes_only, length)
    assert taken == everything[: len(taken)]
    assert sum(len(s.answer) for s in taken[:-1]) < length <= sum(len(s.answer) for s in taken)
    heldout = {sample.prompt for sample in task.heldout_samples(bytes_only)}
    assert len(heldout) == 50
    assert not heldout & {sample.prompt for sample in everything}


def test_all_pairs_can_be_shared_out(bytes_only: PreTrainedTokenizerFast):
    # The last free pair is found too, and (x, y) counts as another pair than (y, x).
    task = LinearRule(largest=4, pairs=15, heldout=10)
    both = task.samples(bytes_only, None) + task.heldout_samples(bytes_only)
    assert {(x, y) for x, y, _ in read_back(bytes_only, both)} == {(x, y) for x in range(5) for y in range(5)}


@quick
@given(seed=st.integers(0, 10**6), pairs=st.integers(1, 100), more=st.integers(0, 100), heldout=st.integers(0, 100))
def test_training_pairs_depend_on_the_seed_alone(
    bytes_only: PreTrainedTokenizerFast, seed: int, pairs: int, more: int, heldout: int
):
    few = LinearRule(seed=seed, pairs=pairs, heldout=heldout).samples(bytes_only, None)
    assert LinearRule(seed=seed, pairs=pairs + more).samples(bytes_only, None)[:pairs] == few
    assert LinearRule(seed=seed + 1, pairs=50).samples(bytes_only, None)[:pairs] != few[:50]


def test_the_pairs_of_a_seed_never_change(bytes_only: PreTrainedTokenizerFast):
    # Stored results refer to them by seed.
    task = LinearRule()
    assert read_back(bytes_only, task.samples(bytes_only, 7)) == GOLDEN
    assert read_back(bytes_only, task.heldout_samples(bytes_only)[:3]) == GOLDEN_HELDOUT


def test_the_embedded_base_reads_digit_by_digit(embedded: Base):
    tokenizer, task = embedded.tokenizer, LinearRule()
    for samples in (task.samples(tokenizer, None), task.heldout_samples(tokenizer)):
        for sample, (x, y, value) in zip(samples, read_back(tokenizer, samples), strict=True):
            assert value == 3 * x + 5 * y + 7
            assert [tokenizer.decode([index]) for index in sample.answer] == list(str(value))
    assert task.fingerprint(tokenizer) == LinearRule().fingerprint(tokenizer)


def test_a_chat_model_is_asked_in_its_template(chat: PreTrainedTokenizerFast):
    (sample, *_) = LinearRule(system="Compute.").heldout_samples(chat)
    prompt = chat.decode(sample.prompt)
    assert "system\nCompute.<|im_end|>" in prompt and prompt.endswith("</think>\n\n")
    assert chat.decode(sample.suffix) == "<|im_end|>\n"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"largest": 9, "pairs": 90, "heldout": 11}, "pairs is 90 and heldout is 11, together 101, but with largest 9"),
        ({"largest": 1, "pairs": 5, "heldout": 0}, "there are only 4 pairs"),
        ({"pairs": 0}, "pairs is 0"),
        ({"heldout": -1}, "heldout is -1"),
        ({"largest": -1}, "largest is -1"),
        ({"a": 1.5}, "a is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"d": 1}, "allowed are a, b, c, pairs, heldout, largest, seed, system"),
    ],
)
def test_impossible_settings_are_one_sentence(spec: dict[str, object], says: str):
    with pytest.raises(UserError) as error:
        make_task({"kind": "linear_rule", **spec})
    assert says in str(error.value)
    assert str(error.value).startswith("Task linear_rule")
    assert len(str(error.value).splitlines()) == 1


def test_lengths_and_limits_reach_the_pairs(bytes_only: PreTrainedTokenizerFast):
    task = LinearRule(pairs=3, heldout=3)
    total = sum(len(sample.answer) for sample in task.samples(bytes_only, None))
    with pytest.raises(UserError, match=f"length is {total + 1} .* the linear rule holds only {total} in 3 records"):
        task.samples(bytes_only, total + 1)
    for call in (
        lambda: task.samples(bytes_only, None, max_length=5),
        lambda: task.heldout_samples(bytes_only, max_length=5),
    ):
        with pytest.raises(UserError, match="more than the model's 5"):
            call()


def test_the_fingerprint_follows_every_setting_and_the_encoding(
    plain: PreTrainedTokenizerFast, chat: PreTrainedTokenizerFast
):
    changes = (
        *({"a": 4}, {"b": 4}, {"c": 8}, {"pairs": 499}, {"heldout": 199}, {"heldout": 0}, {"largest": 98}, {"seed": 1}),
        {},
    )
    prints = [LinearRule(**change).fingerprint(plain) for change in changes]
    prints += [LinearRule(system=system).fingerprint(chat) for system in (None, "Compute.")]
    assert len(set(prints)) == len(prints)
    assert LinearRule(pairs=500).fingerprint(plain) == LinearRule().fingerprint(plain)


def test_a_task_tells_whether_it_has_a_held_out_set():
    assert isinstance(LinearRule(), Task) and isinstance(make_task({"kind": "linear_rule"}), HasHeldout)
    for task in (PhoneBook(), LongContext(), RecordsTask(records=[("a", "1")])):
        assert isinstance(task, Task) and not isinstance(task, HasHeldout)
