from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlaw_jax.errors import UserError
from memlaw_jax.tasks import Record, make_records, read_records, write_records

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
OK = '{"query": "Ada:", "target": "42"}'


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.dictionaries(text, text, min_size=1, max_size=5))
def test_written_records_come_back_whatever_their_text(tmp_path: Path, items: dict[str, str]):
    records = make_records(items.items())
    path = tmp_path / "records.jsonl"
    write_records(path, records, target_lens=[3] * len(records))
    assert read_records(path) == records


@pytest.mark.parametrize("pair", [("query", "target"), ("prompt", "completion"), ("question", "answer")])
def test_every_field_pair_is_read(tmp_path: Path, pair: tuple[str, str]):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({pair[0]: "Ada:", pair[1]: " 42\n", "target_len": 2, "note": [1]}) + "\n\n")
    assert read_records(path) == [Record(key="Ada:", query="Ada:", target=" 42\n")]


def test_an_id_becomes_the_key_and_is_written_as_it_was(tmp_path: Path):
    path, copy = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    rows = [
        {"id": 298864, "query": "a", "target": "1"},
        {"id": "007", "query": "b", "target": "2"},
        {"id": None, "query": "c", "target": "3"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = read_records(path)
    assert [record.key for record in records] == ["298864", "007", "c"]
    write_records(copy, records)
    assert [json.loads(line)["id"] for line in copy.read_text().splitlines()] == [298864, "007", "c"]


def test_windows_line_ends_byte_order_mark_and_unicode_line_separators_do_not_split_records(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"query": "a", "target": "x\u2028y"}\r\n{"query": "b", "target": "z"}\r\n'.encode())
    assert [record.target for record in read_records(path)] == ["x\u2028y", "z"]


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ([OK, '{"query": "Bob:", "target": "4'], 2, "not JSON"),
        ([OK, "", "[" * 100_000], 3, "not JSON"),
        ([OK, '["Bob:", "43"]'], 2, "not an object"),
        ([OK, "null"], 2, "not an object"),
        ([OK, "", '{"query": "Bob:", "completion": "43"}'], 3, "query/target, prompt/completion, question/answer"),
        ([OK, '{"query": "Bob:", "target": "43", "prompt": "Bob:", "completion": "43"}'], 2, "keep only one"),
        ([OK, '{"query": "", "target": "43"}'], 2, "query is empty"),
        ([OK, '{"question": "Bob:", "answer": " \\n"}'], 2, "answer is empty"),
        ([OK, '{"query": "Bob:", "target": 43}'], 2, "'43' (int)"),
        ([OK, '{"query": null, "target": "43"}'], 2, "must be text"),
        ([OK, '{"query": "Bob:", "target": "\\ud83d"}'], 2, "surrogate"),
        ([OK, '{"query": "Bob:", "target": "43", "id": 1.5}'], 2, "id is 1.5"),
        ([OK, '{"query": "Bob:", "target": "43", "id": true}'], 2, "id is True"),
        ([OK, '{"query": "Bob:", "target": "43", "id": ""}'], 2, "id is empty"),
        ([OK, '{"query": "Bob:", "target": "43"}', '{"query": "Ada:", "target": "44"}'], 3, "line 1"),
        ([OK, OK], 2, "already at"),
        (['{"id": 5, "query": "a", "target": "1"}', "", '{"id": "5", "query": "b", "target": "2"}'], 3, "line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: list[str], line: int, says: str):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        read_records(path)
    assert f"{path}, line {line}:" in str(error.value)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(OK.encode() + b"\n" + '{"query": "é", "target": "1"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.jsonl, line 2: not UTF-8"):
        read_records(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str):
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"empty\.jsonl: the file holds no records"):
        read_records(path)


def test_paths_that_cannot_be_read_or_written_are_errors(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        read_records(tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_records(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        write_records(tmp_path / "no" / "folder.jsonl", make_records([("a", "b")]))


def test_records_from_python_values_are_checked_alike():
    made = make_records([("a", "1"), {"prompt": "b", "completion": "2"}, Record(key="k", query="c", target="3")])
    assert [(r.key, r.query, r.target) for r in made] == [("a", "a", "1"), ("b", "b", "2"), ("k", "c", "3")]
    for bad in ([], [("a", "1"), ("a", "2")], [("a", "")], ["text"], [("a", "1", "2")], [("a", None)]):
        with pytest.raises(UserError):
            make_records(bad)
    with pytest.raises(UserError, match="record 2: target is empty"):
        make_records([("a", "1"), Record(key="b", query="b", target="")])


def test_the_releases_files_are_read_whole_and_nested(shared_data: Path):
    short = read_records(shared_data / "phonebook_qwen_1000.jsonl")
    long = read_records(shared_data / "phonebook_qwen_8000.jsonl")
    assert (len(short), len(long)) == (100, 800)
    assert short == long[:100]
    assert (short[0].key, short[0].query, short[0].target) == ("298864", "Jerry Becerra:", "9100672710")


def test_the_releases_file_is_written_back_byte_for_byte(shared_data: Path, tmp_path: Path):
    source, copy = shared_data / "phonebook_qwen_1000.jsonl", tmp_path / "copy.jsonl"
    write_records(copy, read_records(source), target_lens=[10] * 100)
    assert copy.read_text().rstrip("\n") == source.read_text().rstrip("\n")
