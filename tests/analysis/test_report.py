"""The report is one page that stands alone, says what the law says, and trusts no text that it was given."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from memlaw_jax.analysis import fit_law
from memlaw_jax.analysis.report import write_report
from memlaw_jax.analysis.signs import signs
from memlaw_jax.errors import UserError

from .simulate import BASE, simulate
from .simulate_tokens import simulated_sweep

SMALL = BASE.but(ranks=(1, 2, 8), lengths=(1000, 8000, 32000), seeds=2)  # rank 8 remembers 1000 tokens
HOSTILE = """<script>alert(1)</script>"&amp;'"""
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page's tags, checked to be balanced, its ids, attributes, and text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.open, self.tags, self.attributes, self.words = html, [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"{self.open} were never closed"

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what was not open"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def runs(method, frame, **columns):
    return frame.assign(method=method, **columns)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Three methods, one of a hostile name and one that has no law, with every column that a sweep writes."""
    folder = tmp_path_factory.mktemp("report")
    frame = simulate(SMALL, 0)
    more = {"task": "long_context", "model": HOSTILE, "exact_match": 0.25, "steps": 7, "device": "cpu <b>"}
    few = frame[(frame["rank"] == 1) & (frame["length"] == 32000)]
    parts = [runs(HOSTILE, frame, **more), runs("sft", simulate(SMALL, 1), **more), runs("few", few, **more)]
    table = pd.concat(parts, ignore_index=True).assign(token_visits=1000, vocab_size=5)
    table.to_csv(folder / "results.csv", index=False)
    out = folder / "deep" / "report.html"
    laws, written, words = write_report(folder / "results.csv", out, bootstrap=20)
    assert Path(written) == out and "α" in words
    return laws, Page(out.read_text())


def test_the_page_stands_alone(hostile):
    _, page = hostile
    assert page.html.startswith("<!DOCTYPE html>") and page.open == []
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    for name in ("src", "href", "xlink:href", "action", "srcset"):
        assert all(value.startswith(("#", "data:image/png;base64,")) for value in page.values(name))
    for outside in ("http:", "https:", "@import", "//cdn", "xmlns"):
        assert outside not in page.html
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", page.html))
    assert page.html.count("<script>") == 1  # its own, which sorts the tables
    assert len(page.html) < 3e6


def test_ids_are_unique_and_every_reference_is_there(hostile):
    _, page = hostile
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for value in page.values("href") if value.startswith("#")] + page.values("aria-labelledby")
    targets += re.findall(r"url\(#([^)]*)\)", page.html)
    assert set(targets) <= set(ids)


def test_names_from_the_results_are_text_and_nothing_else(hostile):
    _, page = hostile
    assert HOSTILE in page.text  # a heading shows it as it is
    assert "<script>alert" not in page.html and "<b>" not in page.html


def test_every_method_has_its_law_or_the_reason_why_not(hostile):
    laws, page = hostile
    assert {law.method for law in laws} == {HOSTILE, "sft"}
    for law in laws:
        for name in ("alpha", "beta"):
            low, high = law.interval(name)
            assert f"{getattr(law, name):.3f}" in page.text and f"{low:.3f} to {high:.3f}" in page.text
        assert f"{law.C:.4g}" in page.text and f"{law.rmse:.3g}" in page.text
        for sentence in law.rivals.words():
            assert signs(" ".join(sentence.split())) in page.text
        for test in law.tests:
            assert test.name in page.text
    assert "No law: only 1 unsaturated" in page.text
    assert "Methods side by side" in page.text


def test_every_dropped_cell_is_there_with_its_reason(hostile):
    laws, page = hostile
    rows = re.findall(r'<tr class="faint">(.*?)</tr>', page.html, re.S)
    found = [unescape(re.sub("<[^>]+>", "|", row)) for row in rows]
    dropped = [cell for law in laws for cell in law.dropped]
    assert dropped and len(found) == len(dropped)
    for cell in dropped:
        reason = signs(cell.reason.removesuffix(" against ln 2 = 0.693"))
        assert any(reason in row and f"|{cell.rank}|" in row for row in found)


def test_figures_have_names_and_headings_that_sort_are_buttons(hostile):
    _, page = hostile
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(labels) == page.tags.count("figure") == page.tags.count("figcaption") >= 18
    assert all(labels)
    sortable = page.html.count("<table data-sortable>")
    assert sortable >= 4 and page.html.count('aria-sort="none"') == page.html.count('<button type="button">')
    assert page.values("lang") == ["en"] and page.tags.count("h1") == 1


def test_colours_follow_the_light(hostile):
    _, page = hostile
    used = set(re.findall(r"var\((--c-[0-9a-f]{6})\)", page.html))
    declared = Counter(re.findall(r"(--c-[0-9a-f]{6}):#", page.html.partition("<body>")[0]))
    assert used and used == set(declared) and set(declared.values()) == {2}  # on a light page and on a dark one
    assert "var(--paper)" in page.html and "var(--ink)" in page.html


def test_a_bare_table_gets_a_page_without_what_it_does_not_tell(tmp_path):
    frame = simulate(SMALL, 2).drop(columns="seed").drop_duplicates()
    frame.to_csv(tmp_path / "bare.csv", index=False)
    laws, path, _ = write_report(tmp_path / "bare.csv", tmp_path / "bare.html", bootstrap=0)
    page = Page(path.read_text())
    assert laws[0].alpha == fit_law(frame, bootstrap=0).alpha
    assert "No per-token arrays" in page.text and "Rival forms" not in page.text
    assert "exact match" not in page.text and "memlaw report" in page.text
    assert f"{laws[0].alpha:.3f}" in page.text


def test_single_tokens_are_looked_at_where_they_were_kept(tmp_path):
    folder = simulated_sweep(tmp_path / "run", ranks=(1, 2, 4), lengths=(40, 80), strength=0.4)
    _, path, _ = write_report(folder, tmp_path / "page.html", bootstrap=0)
    page = Page(path.read_text())
    assert "No per-token arrays" not in page.text and "teacher-forced" in page.text
    assert "Share of right tokens against their probability" in page.values("aria-label")
    assert "microscope.json" not in page.text and "\ufffd" not in page.text  # a page has no file beside it
    assert 'class="item"' in page.html  # lists are told apart from the sentences around them


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("b = -0.45 [-1, -.5], δ=-2e-05", "b = −0.45 [−1, −.5], δ=−2 × 10⁻⁵"),
        ("7e-09 and 1.5e+03", "7 × 10⁻⁹ and 1.5 × 10³"),
        ("length^(-0.4)", "length^(−0.4)"),
        ("2026-11-27, memft-2, a/-1, 1-2, --n, 6dae172da5a1, 1dc605804e5", None),
    ],
)
def test_numbers_get_a_true_minus_and_names_stay(said, told):
    assert signs(said) == (told or said)


def test_no_number_on_the_page_has_a_hyphen_for_its_sign(tmp_path):
    frame = simulate(SMALL.but(b=-0.2), 3).assign(task="long_context", vocab_size=5, exact_match=0.5)
    laws, path, words = write_report(frame, tmp_path / "page.html", bootstrap=20)
    assert laws[0].b < 0 and not re.search(r"[ \[]-\d", words)
    assert not re.search(r"[ \[(]-\.?\d|\de-?\d", Page(path.read_text()).text)


def test_the_page_is_not_written_over_its_results(tmp_path):
    simulate(SMALL, 0).to_csv(tmp_path / "results.csv", index=False)
    (tmp_path / "run").mkdir()
    before = (tmp_path / "results.csv").read_bytes()
    for given, out in (
        ("results.csv", "results.csv"),
        ("run", "run/results.jsonl"),
        ("run", "run/../run/results.jsonl"),
    ):
        with pytest.raises(UserError, match="holds the results"):
            write_report(tmp_path / given, tmp_path / out, bootstrap=0)
    assert (tmp_path / "results.csv").read_bytes() == before and not list((tmp_path / "run").iterdir())


def test_a_mistake_is_one_sentence_and_writes_nothing(tmp_path):
    frame = simulate(SMALL, 0)
    for given, options, word in (
        (tmp_path / "none", {}, "there is no"),
        (frame, {"filter": "magic"}, "magic"),
        (frame.head(2), {}, "at least 5"),
        (frame.assign(method="sft"), {"method": "other"}, "other"),
    ):
        with pytest.raises(UserError, match=word):
            write_report(given, tmp_path / "out" / "page.html", bootstrap=0, **options)
    assert not (tmp_path / "out").exists()
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write_report(frame, tmp_path / "page.html", bootstrap=0)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"] and not list((tmp_path / "page.html").iterdir())
