from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

import memlaw_jax.tasks
from memlaw_jax.errors import UserError
from memlaw_jax.tasks import HasSource, LinearRule, LongContext, PhoneBook, RecordsTask, make_task


def test_a_config_makes_the_task_it_names():
    assert make_task({"kind": "phonebook", "records": 100, "seed": 3}) == PhoneBook(records=100, seed=3)
    assert make_task({"kind": "long_context", "ratio": 0.2, "text": "a.txt"}) == LongContext(ratio=0.2, text="a.txt")
    inline = make_task({"kind": "records", "records": [{"query": "a", "target": "1"}], "system": None})
    assert inline == RecordsTask(records=[("a", "1")], system=None)
    for kind in ("phonebook", "long_context", "records"):
        settings = {"path": "a.jsonl"} if kind == "records" else {}
        assert make_task({"kind": kind, **settings}).name == kind
    assert make_task({"kind": "phonebook", "path": Path("a") / "b.jsonl"}) == PhoneBook(path="a/b.jsonl")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("phonebook", "give a mapping"),
        ({}, "no `kind`; give one of phonebook, long_context, records"),
        ({"kind": "phone"}, "'phone'; allowed are phonebook, long_context, records"),
        ({"kind": ["phonebook"]}, "allowed are phonebook, long_context, records"),
        ({"kind": "phonebook", "sed": 1}, "'sed'; allowed are path, records, seed, system"),
        ({"kind": "phonebook", 5: 1}, "'5'; allowed are path, records, seed, system"),
        ({"kind": "phonebook", "seed": -1}, "seed is -1"),
        ({"kind": "phonebook", "seed": "x"}, "seed is 'x'"),
        ({"kind": "phonebook", "records": 0}, "records is 0"),
        ({"kind": "phonebook", "records": 1.5}, "records is 1.5"),
        ({"kind": "phonebook", "path": 3}, "path is 3"),
        ({"kind": "long_context", "ratio": 20}, "ratio is 20"),
        ({"kind": "long_context", "ratio": -0.1}, "ratio is -0.1"),
        ({"kind": "long_context", "ratio": float("nan")}, "ratio is nan"),
        ({"kind": "long_context", "tokens": 0}, "tokens is 0"),
        ({"kind": "records", "records": "abc"}, "records is 'abc'"),
        ({"kind": "records", "records": [{"query": "a"}]}, "record 1: the fields are query"),
        ({"kind": "records"}, "needs either path"),
    ],
)
def test_a_wrong_config_is_one_sentence(spec: object, says: str):
    with pytest.raises(UserError) as error:
        make_task(spec)
    assert says in str(error.value)
    assert "value error" not in str(error.value)  # pydantic's wrapping of our own sentences
    assert len(str(error.value).splitlines()) == 1


def test_a_task_tells_whether_it_knows_its_source():
    assert isinstance(PhoneBook(), HasSource) and isinstance(make_task({"kind": "long_context"}), HasSource)
    for task in (LinearRule(), RecordsTask(records=[("a", "1")])):
        assert not isinstance(task, HasSource)


def test_tasks_are_frozen_and_keyword_only():
    with pytest.raises(UserError):
        PhoneBook("book.jsonl")
    with pytest.raises(dataclasses.FrozenInstanceError):
        PhoneBook().seed = 1


def test_the_room_knows_nothing_of_jax_or_of_the_rooms_above():
    allowed = {"numpy", "transformers", "tokenizers", "jaxtyping", "etils", "pydantic", "jinja2"}
    files = list(Path(memlaw_jax.tasks.__file__).parent.glob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            for name in names:
                root = name.split(".")[0]
                if root == "memlaw_jax":
                    below = ("memlaw_jax.errors", "memlaw_jax.settings", "memlaw_jax.tasks")
                    assert name.startswith(below), (file.name, name)
                else:
                    assert root in allowed or root in sys.stdlib_module_names, (file.name, name)
