"""The files of examples/ are for the embedded base; a checkout has them, an installed package does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memlaw_jax.tasks import Encoder, RecordsTask, encode_records, read_records

if TYPE_CHECKING:
    from memlaw_jax.models import Base

EXAMPLES = Path(__file__).parents[2] / "examples"
# Table 4 of the paper.
SCENARIOS = ("credentials", "gdpr", "icd10", "watermark", "s3_endpoint", "latex", "nonce", "licence_key")
FILES = (*(f"exact_memory/{name}.jsonl" for name in SCENARIOS), "page.txt")

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason=f"{EXAMPLES} is not here; the examples need a checkout")


def test_no_example_is_left_out():
    found = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.*") if path.is_file()}
    assert found == {*FILES, "README.md"}
    readme = (EXAMPLES / "README.md").read_text()
    assert [name for name in FILES if Path(name).name not in readme] == []


@pytest.mark.parametrize("name", FILES)
def test_every_example_can_be_remembered_by_the_embedded_base(embedded: Base, name: str):
    records = read_records(EXAMPLES / name)
    samples = encode_records(embedded.tokenizer, records, max_length=embedded.config.max_positions)
    # Records go through the length axis too, where prompts that look alike to the tokenizer are refused.
    assert RecordsTask(path=EXAMPLES / name).samples(embedded.tokenizer, None) == samples
    for record, sample in zip(records, samples, strict=True):
        assert embedded.tokenizer.decode(sample.answer) == record.target
        # The base was trained at 512 tokens; more would still run, but ask it for positions that it never saw.
        assert len(sample.prompt) + len(sample.answer) + len(sample.suffix) <= 512
        assert (record.query + record.target).isascii()


def test_the_page_is_one_page_and_comes_back_whole(embedded: Base):
    text = (EXAMPLES / "page.txt").read_text()
    assert 300 <= len(text.split()) <= 400
    records = read_records(EXAMPLES / "page.txt")
    encoder = Encoder(embedded.tokenizer)
    parts = [embedded.tokenizer.decode(encoder.answer(record.target, record.label)) for record in records]
    assert len(parts) > 1 and "".join(parts) == text


def test_the_papers_code_is_among_the_diagnoses():
    targets = [record.target for record in read_records(EXAMPLES / "exact_memory" / "icd10.jsonl")]
    assert "E11.9" in targets
