"""`memlaw report`: a page from results, and mistakes told in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Memlaw


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A law with a little unevenness, 3 ranks × 3 lengths."""
    rows = ["rank,length,loss_initial,loss_final"]
    for i, (rank, length) in enumerate((r, n) for r in (1, 2, 4) for n in (4000, 8000, 32000)):
        delta = 20 * rank**0.6 * length**-0.5 + 0.3 + 0.01 * (-1) ** i
        rows.append(f"{rank},{length},2.6,{2.6 - delta}")
    path = tmp_path / "results.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_page_is_written_and_named(table: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    said = memlaw("report", table, "--out", tmp_path / "deep" / "page.html", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    page = (tmp_path / "deep" / "page.html").read_text()
    assert found["out"] == str(tmp_path / "deep" / "page.html")
    (law,) = found["laws"]
    assert f"{law['alpha']:.3f}" in page and set(law["intervals"]) >= {"alpha", "beta", "b"}
    assert f"memlaw report {table} --out" in page  # how to make it again


def test_the_results_are_not_overwritten(table: Path, memlaw: Memlaw) -> None:
    before = table.read_bytes()
    said = memlaw("report", table, "--out", table)
    assert said.code == 2 and said.out == "" and said.err.count("\n") == 1 and "would be lost" in said.err
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "nowhere"),
        (["RESULTS", "--method", "sft"], "no method column"),
        (["RESULTS", "--filter", "magic"], "magic"),
        (["RESULTS", "--loss", "huber", "--filter", "tobit"], "huber"),
        ([], "RESULTS"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], word: str, table: Path, memlaw: Memlaw, tmp_path: Path
) -> None:
    given = [str(table) if argument == "RESULTS" else argument for argument in arguments]
    said = memlaw("report", *given, "--out", tmp_path / "page.html")
    assert said.code == 2 and said.out == ""
    assert said.err.count("\n") == 1 and word in said.err
    assert not (tmp_path / "page.html").exists()
