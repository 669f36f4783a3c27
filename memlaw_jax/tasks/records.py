"""The records to remember, and the files that hold them: JSON Lines of records, or a plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etils import epath

from memlaw_jax.errors import UserError
from memlaw_jax.tasks.text import cut_text

TEXT_SUFFIXES = (".txt", ".md")
PIECE_CHARACTERS = 400
FIELD_PAIRS = (("query", "target"), ("prompt", "completion"), ("question", "answer"))
_ONE_OBJECT = 'each line must be one JSON object such as {"query": "Ada:", "target": "42"}'
_PAIRS_TEXT = ", ".join("/".join(pair) for pair in FIELD_PAIRS)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One thing to remember: after `query`, exactly `target`.

    `where` says where the record was read ("book.jsonl, line 3"), for error messages only.
    """

    key: str
    query: str
    target: str
    where: str = field(default="", compare=False, repr=False)

    @property
    def label(self) -> str:
        """The record's name in an error message."""
        name = f"record {shorten(self.key)}"
        return f"{self.where}: {name}" if self.where else name


def shorten(text: str, limit: int = 60) -> str:
    """`repr` of a user's text, cut so that a message stays one readable sentence."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def read_text(path: epath.PathLike, what: str) -> str:
    """The text of a UTF-8 file, local or in a bucket; a UserError that calls it `what` where it cannot be read."""
    try:
        data = epath.Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; give the path of {what}.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); give the path of {what}.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save {what} as UTF-8.") from None


def read_records(path: epath.PathLike) -> list[Record]:
    """Reads a JSON Lines file of query/target, prompt/completion or question/answer objects, or a plain text.

    A name that ends in .txt or .md is a text, see `text_records`; all others are JSON Lines. There an `id` (text or
    integer) becomes the record's key, otherwise the query does. Other fields are left alone, blank lines are skipped.

    Raises:
      UserError: with the line number, where a line is no such object, a text is empty, or a key or query comes twice.
    """
    if epath.Path(path).suffix.lower() in TEXT_SUFFIXES:
        return text_records(path)
    records = []
    # Not splitlines(): U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(read_text(path, "a JSON Lines file of records").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{where}: not JSON ({reason}), perhaps cut short; {_ONE_OBJECT}.") from None
        records.append(_parse(value, where))
    if not records:
        raise UserError(f"{path}: the file holds no records; {_ONE_OBJECT}.")
    check_unique(records)
    return records


def text_records(path: epath.PathLike, *, characters: int = PIECE_CHARACTERS) -> list[Record]:
    """A text file as records "page.txt, part 3 of 12:" → the piece, whose targets joined are the text exactly.

    Args:
      characters: the most characters of a piece; see `text.cut_text` for where it is cut. The number of parts, and so
        every query, follows from it.

    Raises:
      UserError: the file cannot be read or holds no text.
    """
    pieces = cut_text(read_text(path, "a text to remember"), characters)
    if not pieces:
        raise UserError(f"{path}: the file holds no text; give it some to remember.")
    records = []
    for number, piece in enumerate(pieces, start=1):
        part = f"part {number} of {len(pieces)}"
        query = f"{epath.Path(path).name}, {part}:"
        records.append(Record(key=query, query=query, target=piece, where=f"{path}, {part}"))
    return make_records(records)


def make_records(items: Iterable[Record | Mapping[str, Any] | tuple[str, str]]) -> list[Record]:
    """Records from Python values: Records, mappings with the fields of the JSONL form, or (query, target) pairs."""
    records = []
    for number, item in enumerate(items, start=1):
        where = f"record {number}"
        if isinstance(item, Record):
            _check_text(item.query, "query", item.where or where)
            _check_text(item.target, "target", item.where or where)
            records.append(item if item.where else replace(item, where=where))
        elif isinstance(item, tuple) and len(item) == 2:
            records.append(_parse({"query": item[0], "target": item[1]}, where))
        else:
            records.append(_parse(item, where))
    if not records:
        raise UserError("There are no records; give at least one query with its target.")
    check_unique(records)
    return records


def write_records(path: epath.PathLike, records: Sequence[Record], target_lens: Sequence[int] | None = None) -> None:
    """Writes the release's JSON Lines form: id, query, target, and target_len (in tokens) where it is given."""
    lines = []
    for index, record in enumerate(records):
        row: dict[str, Any] = {"id": _release_id(record.key), "query": record.query, "target": record.target}
        if target_lens is not None:
            row["target_len"] = target_lens[index]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    try:
        epath.Path(path).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another path.") from None


def check_unique(records: Iterable[Record]) -> None:
    """Raises UserError where a key or a query comes twice: one prompt cannot have two verbatim answers."""
    queries: dict[str, Record] = {}
    keys: dict[str, Record] = {}
    for record in records:
        if (first := queries.setdefault(record.query, record)) is not record:
            raise UserError(
                f"{record.where}: the query {shorten(record.query)} is already at {first.where}, and one query cannot "
                "have two verbatim targets; remove one or make the queries differ."
            )
        if (first := keys.setdefault(record.key, record)) is not record:
            raise UserError(
                f"{record.where}: the id {shorten(record.key)} is already at {first.where}; give each record its own."
            )


def _parse(value: Any, where: str) -> Record:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {shorten(str(value))} is not an object; {_ONE_OBJECT}.")
    pairs = [pair for pair in FIELD_PAIRS if pair[0] in value and pair[1] in value]
    if not pairs:
        fields = ", ".join(map(str, value)) or "none"
        raise UserError(f"{where}: the fields are {fields}, but one of the pairs {_PAIRS_TEXT} is needed.")
    if len(pairs) > 1:
        both = " and ".join("/".join(pair) for pair in pairs)
        raise UserError(f"{where}: holds {both}; keep only one of them.")
    query_field, target_field = pairs[0]
    query = _check_text(value[query_field], query_field, where)
    target = _check_text(value[target_field], target_field, where)
    key = value.get("id")
    if key is None:
        key = query
    elif isinstance(key, bool) or not isinstance(key, str | int):
        raise UserError(f"{where}: id is {key!r}; give text or an integer.")
    elif isinstance(key, str):
        _check_text(key, "id", where)
    return Record(key=str(key), query=query, target=target, where=where)


def _check_text(text: Any, name: str, where: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{where}: {name} is {shorten(str(text))} ({type(text).__name__}); it must be text.")
    if not text.strip():
        raise UserError(f"{where}: {name} is empty; give it some text or remove the record.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {name} holds half of a surrogate pair, which is no character; mend it.") from None
    return text


def _release_id(key: str) -> str | int:
    """The release's ids are integers; only texts that come back unchanged are written so."""
    return int(key) if key.isdecimal() and len(key) < 16 and str(int(key)) == key else key
