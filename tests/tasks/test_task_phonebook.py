from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import (
    PhoneBook,
    RecordsTask,
    encode_records,
    generate_phonebook,
    make_records,
    pad,
    write_records,
)
from memlaw_jax.tasks.names import FIRST_NAMES, LAST_NAMES
from memlaw_jax.tasks.phonebook import MAX_RECORDS


def total(samples: list) -> int:
    return sum(len(sample.answer) for sample in samples)


def test_names_are_many_and_distinct():
    assert len(set(FIRST_NAMES)) == len(FIRST_NAMES) >= 200
    assert len(set(LAST_NAMES)) == len(LAST_NAMES) >= 300
    assert all(re.fullmatch("[A-Z][A-Za-z]+", name) for name in FIRST_NAMES + LAST_NAMES)


def test_a_whole_book_is_unique_and_of_the_releases_form():
    book = generate_phonebook(MAX_RECORDS, seed=1)  # a seed that draws two numbers twice
    assert len({r.query for r in book}) == len({r.target for r in book}) == len({r.key for r in book}) == MAX_RECORDS
    assert all(re.fullmatch(r"[A-Za-z]+ [A-Za-z]+:", r.query) and re.fullmatch(r"[6-9]\d{9}", r.target) for r in book)
    # Uniform over 6…9: a quarter each, within five standard deviations of a binomial share.
    for digit in "6789":
        share = sum(r.target[0] == digit for r in book) / MAX_RECORDS
        assert abs(share - 0.25) < 5 * (0.25 * 0.75 / MAX_RECORDS) ** 0.5


@settings(max_examples=20, deadline=None)
@given(short=st.integers(1, 60), more=st.integers(0, 60), seed=st.integers(0, 10**6))
def test_a_shorter_book_is_a_prefix_and_seeds_differ(short: int, more: int, seed: int):
    book = generate_phonebook(short + more, seed)
    assert generate_phonebook(short, seed) == book[:short]
    assert generate_phonebook(short, seed + 1) != book[:short]


def test_the_book_of_a_seed_never_changes():
    # Stored results refer to these records by seed.
    book = generate_phonebook(3, seed=0)
    assert [(r.query, r.target) for r in book] == [
        ("George Burton:", "8695108739"),
        ("Joseph Jimenez:", "9085839703"),
        ("Danielle Duncan:", "8150575613"),
    ]


def test_the_source_of_a_book_is_as_uncertain_as_there_are_books(
    tmp_path: Path, plain: PreTrainedTokenizerFast, chat: PreTrainedTokenizerFast
):
    """Counted in whole numbers: so many ordered choices of different numbers from 6,000,000,000 to 9,999,999,999."""
    for records in (1, 2, 40):
        for book in (PhoneBook(), PhoneBook(records=records)):
            for tokenizer in (plain, chat):  # whatever ends a turn is trained and not counted
                samples = book.samples(tokenizer, 10 * records)
                assert len(samples) == records and all(len(sample.answer) == 10 for sample in samples)
                bits = book.source_bits(tokenizer, total(samples), len(samples))
                assert bits == pytest.approx(math.log2(math.perm(4 * 10**9, records)), rel=1e-14)
    write_records(tmp_path / "book.jsonl", generate_phonebook(2, 0))
    assert PhoneBook(path=tmp_path / "book.jsonl").source_bits(plain, 20, 2) is None


@pytest.mark.parametrize("records", [0, -1, MAX_RECORDS + 1])
def test_impossible_sizes_are_errors(records: int):
    with pytest.raises(UserError, match=f"records is {records}"):
        generate_phonebook(records, seed=0)


def test_the_releases_file_has_a_thousand_answer_tokens(shared_data: Path, plain: PreTrainedTokenizerFast):
    book = PhoneBook(path=str(shared_data / "phonebook_qwen_1000.jsonl"))
    everything = book.samples(plain, None)
    assert pad(everything, pad_id=0).answer_tokens == 1000
    assert book.samples(plain, 1000) == everything
    assert len(book.samples(plain, 11)) == 2  # ten digits a record: the second one reaches eleven
    with pytest.raises(UserError, match=r"length is 1001 .* holds only 1000 in 100 records"):
        book.samples(plain, 1001)


@pytest.mark.parametrize("name", ["plain", "chat"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(targets=st.lists(st.integers(1, 10**8), min_size=1, max_size=8), length=st.integers(1, 70))
def test_length_takes_the_fewest_first_records_that_reach_it(
    request: pytest.FixtureRequest, name: str, targets: list[int], length: int
):
    tokenizer = request.getfixturevalue(name)
    records = make_records([(f"{index}:", str(target)) for index, target in enumerate(targets)])
    task = RecordsTask(records=records)
    everything = encode_records(tokenizer, records)
    assert task.samples(tokenizer, None) == everything
    if total(everything) < length:
        with pytest.raises(UserError, match=f"length is {length} .* holds only {total(everything)} in"):
            task.samples(tokenizer, length)
        return
    taken = task.samples(tokenizer, length)
    assert taken == everything[: len(taken)]
    assert total(taken[:-1]) < length <= total(taken)


def test_a_generated_book_grows_to_the_length(plain: PreTrainedTokenizerFast):
    book = PhoneBook(seed=5)
    samples = book.samples(plain, 1234)
    assert len(samples) == 124
    assert samples == PhoneBook(seed=5, records=200).samples(plain, 1234)
    assert samples == encode_records(plain, generate_phonebook(124, 5))
    with pytest.raises(UserError, match="give `records` or a length"):
        book.samples(plain, None)
    with pytest.raises(UserError, match=r"length is 1001 .* holds only 1000"):
        PhoneBook(records=100).samples(plain, 1001)


@pytest.mark.parametrize("length", [0, -5, 1.5, True, "100"])
def test_a_length_that_is_no_count_is_an_error(plain: PreTrainedTokenizerFast, length: object):
    for task in (PhoneBook(records=3), RecordsTask(records=[("a", "1")])):
        with pytest.raises(UserError, match="length is"):
            task.samples(plain, length)


def test_the_models_limit_reaches_the_records(tmp_path: Path, plain: PreTrainedTokenizerFast):
    path = tmp_path / "book.jsonl"
    path.write_text('{"query": "a", "target": "12"}\n\n{"query": "b", "target": "123456789"}\n')
    task = RecordsTask(path=path)
    assert len(task.samples(plain, 2, max_length=4)) == 1
    with pytest.raises(UserError, match=r"book\.jsonl, line 3: record 'b': 11 tokens .* model's 4"):
        task.samples(plain, None, max_length=4)


def test_queries_that_reach_the_model_alike_are_refused(tmp_path: Path, bytes_only: PreTrainedTokenizerFast):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only.backend_tokenizer,
        chat_template="{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}",
    )
    path = tmp_path / "book.jsonl"
    path.write_text('{"query": "Ada:", "target": "12"}\n{"query": "Ada: ", "target": "13"}\n')
    with pytest.raises(UserError, match=r"line 2: .* same tokens as 'Ada:' \(.*line 1\)"):
        RecordsTask(path=path).samples(tokenizer, None)
    assert len(RecordsTask(path=path).samples(bytes_only, None)) == 2


def test_fingerprints_follow_the_content_and_its_encoding(
    tmp_path: Path, plain: PreTrainedTokenizerFast, chat: PreTrainedTokenizerFast
):
    book = PhoneBook(records=40)
    first = book.fingerprint(plain)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_records(tmp_path / folder / "book.jsonl", generate_phonebook(40, 0))
        assert PhoneBook(path=tmp_path / folder / "book.jsonl").fingerprint(plain) == first
    assert RecordsTask(records=generate_phonebook(40, 0)).fingerprint(plain) == first
    changed = [*generate_phonebook(40, 0)[:-1], generate_phonebook(41, 0)[-1]]
    others = [
        book.fingerprint(chat),
        PhoneBook(records=40, system=None).fingerprint(chat),
        PhoneBook(records=41).fingerprint(plain),
        PhoneBook(records=40, seed=1).fingerprint(plain),
        PhoneBook().fingerprint(plain),
        PhoneBook(seed=1).fingerprint(plain),
        RecordsTask(records=changed).fingerprint(plain),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_file_is_read_once_so_that_samples_match_the_fingerprint(tmp_path: Path, plain: PreTrainedTokenizerFast):
    path = tmp_path / "book.jsonl"
    write_records(path, generate_phonebook(3, 0))
    for task in (PhoneBook(path=path), RecordsTask(path=path)):
        before = task.fingerprint(plain)
        samples = task.samples(plain, None)
        write_records(path, generate_phonebook(2, 1))
        assert (task.fingerprint(plain), task.samples(plain, None)) == (before, samples)
        write_records(path, generate_phonebook(3, 0))


def test_settings_that_contradict_each_other_are_errors(tmp_path: Path, plain: PreTrainedTokenizerFast):
    path = tmp_path / "book.jsonl"
    write_records(path, generate_phonebook(5, 0))
    assert len(PhoneBook(path=path, records=3).samples(plain, None)) == 3
    with pytest.raises(UserError, match=r"records is 6, but .*book\.jsonl holds only 5"):
        PhoneBook(path=path, records=6).samples(plain, None)
    with pytest.raises(UserError, match="seed is 1, but the book is read"):
        PhoneBook(path=path, seed=1)
    with pytest.raises(UserError, match=f"records is {MAX_RECORDS + 1}"):
        PhoneBook(records=MAX_RECORDS + 1)
    for wrong in ({}, {"path": str(path), "records": [("a", "b")]}):
        with pytest.raises(UserError, match="not both"):
            RecordsTask(**wrong)
