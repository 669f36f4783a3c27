from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import LongContext, encode_prompt
from memlaw_jax.tasks.long_context import PAPER_TOKENS, QUERY, ordinary_ids, random_tokens, replaced_positions

GOLDEN = [63, 617, 138, 803, 231]
TEXT = "It was a town of ten thousand, and every name in it had a number of its own. " * 8


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def target(tokenizer: PreTrainedTokenizerFast, length: int | None = None, **settings) -> list[int]:
    (sample,) = LongContext(**settings).samples(tokenizer, length)
    return list(sample.answer)


@settings(max_examples=200, deadline=None)
@given(percent=st.integers(0, 100), tokens=st.integers(1, 3000))
def test_positions_against_the_rule_in_exact_fractions(percent: int, tokens: int):
    ratio = percent / 100
    count = round(ratio * tokens)
    expected = [math.floor((i + Fraction(1, 2)) * tokens / count) for i in range(count)]
    positions = replaced_positions(ratio, tokens)
    assert positions == expected
    assert len(set(positions)) == count  # No position twice, so the share is what it says.
    assert all(0 <= position < tokens for position in positions)


def test_positions_at_the_papers_size():
    assert replaced_positions(1.0, PAPER_TOKENS) == list(range(PAPER_TOKENS))
    assert replaced_positions(0.0, PAPER_TOKENS) == []
    assert replaced_positions(0.2, PAPER_TOKENS)[:3] == [2, 7, 12]  # every fifth, from the middle of the first five


def test_r100_needs_no_text_and_has_the_papers_length(plain: PreTrainedTokenizerFast):
    whole = target(plain)
    assert len(whole) == PAPER_TOKENS
    vocabulary = ordinary_ids(plain)
    assert set(whole) == set(vocabulary)
    assert not set(vocabulary) & set(plain.all_special_ids)
    assert len(vocabulary) == len(plain) - 3  # im_start, im_end, pad
    # Uniform draws: no count further than six standard deviations from n / V (about 4e-7 by chance for all 400).
    counts = np.bincount(whole)[vocabulary]
    expected = PAPER_TOKENS / len(vocabulary)
    assert np.abs(counts - expected).max() < 6 * math.sqrt(expected)


def test_the_source_of_random_tokens_is_as_uncertain_as_they_are_many(bytes_chat: PreTrainedTokenizerFast, text: str):
    task = LongContext()
    (sample,) = task.samples(bytes_chat, 50)
    # 256 bytes to choose from: eight bits a token. Nothing that is trained goes uncounted.
    assert task.source_bits(bytes_chat, len(sample.answer), 1) == 8 * 50 and not sample.suffix
    assert LongContext(text=text).source_bits(bytes_chat, 50, 1) == 8 * 50  # at ratio 1 no token of it is left
    for ratio in (0.0, 0.2, 0.99):
        assert LongContext(ratio=ratio, text=text).source_bits(bytes_chat, 50, 1) is None


def test_the_random_tokens_of_a_seed_never_change():
    # Stored results refer to them by seed.
    assert random_tokens(range(1000), 5, seed=0) == GOLDEN
    assert random_tokens(range(1000), 3, seed=0) == GOLDEN[:3]
    assert random_tokens(range(1000), 5, seed=1) != GOLDEN


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 1.0])
def test_a_shorter_cell_is_a_causal_prefix(bytes_chat: PreTrainedTokenizerFast, text: str, ratio: float):
    task = LongContext(ratio=ratio, text=text)
    (whole,) = task.samples(bytes_chat, None)
    assert whole.prompt == encode_prompt(bytes_chat, QUERY)
    for length in (1, 2, 57, len(TEXT)):
        (cell,) = task.samples(bytes_chat, length)
        assert len(cell.answer) == length
        ids = cell.prompt + cell.answer + cell.suffix
        assert ids == (whole.prompt + whole.answer + whole.suffix)[: len(ids)]


def test_ratios_differ_only_in_which_positions_are_random(bytes_only: PreTrainedTokenizerFast, text: str):
    source = target(bytes_only, ratio=0.0, text=text)
    assert bytes_only.decode(source) == TEXT
    noise = target(bytes_only, ratio=1.0, text=text)
    assert noise == target(bytes_only, len(TEXT), ratio=1.0)  # nor does the text's length matter
    for percent in (20, 40, 60, 80):
        mixed = target(bytes_only, ratio=percent / 100, text=text)
        replaced = set(replaced_positions(percent / 100, len(TEXT)))
        assert mixed == [noise[i] if i in replaced else source[i] for i in range(len(TEXT))]
        assert abs(len(replaced) / len(TEXT) - percent / 100) < 1 / len(TEXT)


def test_random_ids_are_kept_as_they_are(bytes_only: PreTrainedTokenizerFast):
    # Half of all byte sequences are no text at all; going through text would lose them.
    ids = target(bytes_only, 200)
    assert bytes_only(bytes_only.decode(ids)).input_ids != ids


def test_control_tokens_in_the_text_are_ordinary_text(bytes_only: PreTrainedTokenizerFast, tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("a<|im_end|>b")
    ids = target(bytes_only, ratio=0.0, text=path)
    assert bytes_only.eos_token_id not in ids
    assert len(ids) == 12


def test_heldout_text_beside_the_tokenizer_is_used(tmp_path: Path, bytes_only: PreTrainedTokenizerFast):
    bytes_only.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"ratio is 0\.2, so 80% of the target are text; name a file with `text:`"):
        target(tokenizer, 10, ratio=0.2)
    (tmp_path / "heldout.txt").write_text(TEXT)
    assert tokenizer.decode(target(tokenizer, 16, ratio=0.0)) == TEXT[:16]
    assert len(target(tokenizer)) == PAPER_TOKENS  # r100 leaves it alone


def test_lengths_beyond_the_source_are_errors_with_both_numbers(bytes_only: PreTrainedTokenizerFast, text: str):
    with pytest.raises(UserError, match=f"length is {PAPER_TOKENS + 1}, but the long context has {PAPER_TOKENS}"):
        target(bytes_only, PAPER_TOKENS + 1)
    with pytest.raises(UserError, match="length is 51, but the long context has 50"):
        target(bytes_only, 51, tokens=50)
    with pytest.raises(UserError, match=f"length is 9999, but the long context has {len(TEXT)} tokens from"):
        target(bytes_only, 9999, ratio=0.5, text=text)
    with pytest.raises(UserError, match=rf"tokens is 9999, but .*text\.txt has only {len(TEXT)} tokens"):
        target(bytes_only, 10, ratio=0.5, text=text, tokens=9999)
    with pytest.raises(UserError, match="length is 0"):
        target(bytes_only, 0)
    with pytest.raises(UserError, match="no such file"):
        target(bytes_only, 10, ratio=0.5, text="nowhere.txt")


def test_the_models_limit_counts_the_prompt(bytes_only: PreTrainedTokenizerFast):
    task, prompt = LongContext(), len(QUERY)
    assert task.samples(bytes_only, 20, max_length=prompt + 20)
    with pytest.raises(UserError, match=f"length is 21, .* prompt's {prompt} tokens .* ask for at most 20"):
        task.samples(bytes_only, 21, max_length=prompt + 20)


def test_fingerprints_follow_the_token_ids(
    tmp_path: Path, bytes_only: PreTrainedTokenizerFast, plain: PreTrainedTokenizerFast, text: str
):
    copy = tmp_path / "copy.txt"
    copy.write_text(TEXT)
    first = LongContext(ratio=0.2, text=text).fingerprint(bytes_only)
    assert LongContext(ratio=0.2, text=copy).fingerprint(bytes_only) == first
    others = [
        LongContext(ratio=0.2, text=text).fingerprint(plain),
        LongContext(ratio=0.2, text=text, seed=1).fingerprint(bytes_only),
        LongContext(ratio=0.4, text=text).fingerprint(bytes_only),
        LongContext(ratio=0.2, text=text, tokens=100).fingerprint(bytes_only),
        LongContext().fingerprint(bytes_only),
        LongContext(tokens=100).fingerprint(bytes_only),
    ]
    assert len({first, *others}) == 1 + len(others)
