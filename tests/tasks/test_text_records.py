from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import PhoneBook, RecordsTask, encode_records, read_records, text_records
from memlaw_jax.tasks.text import cut_text

# Half of the draws are words and blanks, where borders are dense; the rest is any text.
prose = st.lists(st.sampled_from(["a", "word", "sentence.", "Really?", " ", "  ", "\n", "\n\n", "\r\n", "\t"])).map(
    "".join
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
texts = (prose | any_text).filter(str.strip)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(text=texts, characters=st.integers(1, 60))
@example(text="\n\n a" + " " * 500 + "b \x1f\x85\u2028", characters=3)
def test_the_pieces_joined_are_the_text_and_none_is_blank_or_too_long(text: str, characters: int):
    pieces = cut_text(text, characters)
    assert "".join(pieces) == text
    assert all(0 < len(piece.strip()) <= characters for piece in pieces)
    assert all(not piece[0].isspace() for piece in pieces[1:])


@quick
@given(words=st.lists(st.text("abc.", min_size=1, max_size=9), min_size=1, max_size=60), characters=st.integers(18, 60))
def test_no_word_of_at_most_half_a_piece_is_cut(words: list[str], characters: int):
    pieces = cut_text(" ".join(words), characters)
    assert [word for piece in pieces for word in piece.split()] == words
    # Greedy: every piece but the last is at least half full.
    assert all(len(piece) >= characters / 2 for piece in pieces[:-1])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two three.\n\nFour. Five six.", ["One. Two three.\n\n", "Four. Five six."]),
        ("One two. Three four five", ["One two. ", "Three four five"]),
        ("One two three\nfour five six", ["One two three\n", "four five six"]),
        ("one two three four five six", ["one two three four ", "five six"]),
        ("x" * 45, ["x" * 20, "x" * 20, "x" * 5]),
        ("x" * 20 + "\n\nend\n", ["x" * 20 + "\n\n", "end\n"]),
    ],
)
def test_paragraphs_come_before_sentences_and_lines_and_those_before_words(text: str, pieces: list[str]):
    characters = 15 if text.startswith("One two. ") else 20
    assert cut_text(text, characters) == pieces


@quick
@given(text=texts)
def test_a_text_file_comes_back_from_its_records(tmp_path: Path, text: str):
    path = tmp_path / "page.txt"
    path.write_bytes(text.encode())
    text = text.removeprefix("\ufeff")
    for characters in (7, 400):
        if not text.strip():
            return
        records = text_records(path, characters=characters)
        assert "".join(record.target for record in records) == text
    parts = [f"page.txt, part {i + 1} of {len(records)}:" for i in range(len(records))]
    assert [record.query for record in records] == [record.key for record in records] == parts
    assert read_records(path) == records  # 400 is what a file is read with


def test_the_files_name_decides_how_it_is_read(tmp_path: Path, bytes_only: PreTrainedTokenizerFast):
    line = '{"query": "Ada:", "target": "42"}\n'
    for name, target in [("a.txt", line), ("a.md", line), ("a.TXT", line), ("a.jsonl", "42"), ("a", "42")]:
        (tmp_path / name).write_text(line)
        (record,) = read_records(tmp_path / name)
        assert record.target == target
    task = RecordsTask(path=tmp_path / "a.md")
    assert task.samples(bytes_only, None) == encode_records(bytes_only, read_records(tmp_path / "a.md"))
    assert PhoneBook(path=tmp_path / "a.jsonl").samples(bytes_only, None)[0].key == "Ada:"


def test_texts_that_cannot_be_read_are_errors(tmp_path: Path):
    with pytest.raises(UserError, match=r"no\.txt: there is no such file; give the path of a text to remember"):
        read_records(tmp_path / "no.txt")
    for content in (b"", b" \n\t\n", b"\xef\xbb\xbf"):
        (tmp_path / "blank.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"blank\.txt: the file holds no text"):
            read_records(tmp_path / "blank.txt")
    (tmp_path / "latin.md").write_bytes(b"ok\n\xe9")
    with pytest.raises(UserError, match=r"latin\.md, line 2: not UTF-8"):
        read_records(tmp_path / "latin.md")
    (tmp_path / "ok.txt").write_text("ok")
    with pytest.raises(UserError, match="characters is 0"):
        text_records(tmp_path / "ok.txt", characters=0)


def test_a_piece_that_does_not_fit_the_model_is_named(tmp_path: Path, bytes_only: PreTrainedTokenizerFast):
    path = tmp_path / "page.txt"
    path.write_text("one " * 10 + "\n\n" + "more " * 14)
    with pytest.raises(UserError, match=r"page\.txt, part 2 of 2: record 'page\.txt, part 2 of 2:': \d+ tokens"):
        encode_records(bytes_only, text_records(path, characters=70), max_length=80)
