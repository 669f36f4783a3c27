"""The record of a cell, and the hash that names it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlaw_jax.results import FIELDS, ResultStore, cell_id, commit, now, versions

from .conftest import arrays, record

DEFINITION: dict[str, Any] = {
    "model": "0123", "dataset": "4567", "method": "sft", "rank": 4, "length": 64, "seed": 0, "rate": 0.01,
    "lora": {"targets": ["mlp"], "layers": [4], "alpha": None, "init": "paper"}, "optim": {"steps": 400, "clip": 1.0},
}  # fmt: skip


def test_the_record_has_every_field_of_the_design() -> None:
    """DESIGN.md, "The record of a cell"."""
    design = """schema cell_id model task dataset method rank alpha targets layers effective_parameters length samples
    seed learning_rate steps token_visits stopped loss_initial loss_final token_accuracy exact_match p_min
    fraction_above_half first_failure seconds precision device mesh versions started git"""
    assert set(design.split()) <= set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_record_that_lacks_a_field_is_not_written(tmp_path: Path, identity: dict[str, Any], field: str) -> None:
    short = record("a")
    del short[field]
    with ResultStore(tmp_path, identity) as store, pytest.raises(KeyError, match=field):
        store.append(short, arrays())
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path, identity: dict[str, Any], value: float) -> None:
    with ResultStore(tmp_path, identity) as store:
        store.append(record("a", loss_final=value, stopped="diverged"), arrays())
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert "NaN" not in line and "Infinity" not in line
    assert json.loads(line) == record("a", loss_final=None, stopped="diverged")


def test_a_cell_reads_the_same_before_and_after_a_restart(tmp_path: Path, identity: dict[str, Any]) -> None:
    """A table made in the run that trained a cell must not differ from one made later from the file."""
    with ResultStore(tmp_path, identity) as store:
        store.append(record("a", loss_final=math.nan, stopped="diverged", layers=(4, 5)), arrays())
        during = list(store.records)
    with ResultStore(tmp_path, identity) as store:
        assert store.records == during


def paths(tree: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        found += paths(value, (*before, key)) if isinstance(value, dict) else [(*before, key)]
    return found


def changed(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    head, *rest = path
    return tree | {head: changed(tree[head], tuple(rest)) if rest else "something else"}


@pytest.mark.parametrize("path", paths(DEFINITION), ids=".".join)
def test_a_cells_name_changes_with_every_part_of_its_definition(path: tuple[str, ...]) -> None:
    assert cell_id(changed(DEFINITION, path)) != cell_id(DEFINITION)


@given(keys=st.permutations(sorted(DEFINITION)), inner=st.permutations(sorted(DEFINITION["lora"])))
@settings(max_examples=30, deadline=None)
def test_a_cells_name_does_not_depend_on_the_order_of_keys(keys: list[str], inner: list[str]) -> None:
    shuffled = {key: DEFINITION[key] for key in keys}
    shuffled["lora"] = {key: DEFINITION["lora"][key] for key in inner}
    assert cell_id(shuffled) == cell_id(DEFINITION)


def test_a_cells_name_is_the_same_for_ever() -> None:
    """Old results must be found again by later versions: SHA-256 of the sorted, compact JSON."""
    import hashlib

    text = '{"a":[1,null],"b":0.5}'
    assert cell_id({"b": 0.5, "a": [1, None]}) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_where_a_number_comes_from_is_known() -> None:
    import re

    import jax

    import memlaw_jax

    assert versions()["jax"] == jax.__version__ and versions()["memlaw_jax"] == memlaw_jax.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", now())
    assert commit() is None or re.fullmatch(r"[0-9a-f]{12}\+?", commit() or "")
