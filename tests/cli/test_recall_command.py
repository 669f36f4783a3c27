"""`memlaw recall`: what an adapter recalls of data and where the rest breaks off, against the same by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.forward import random_adapter

import memlaw_jax as ml
from memlaw_jax.cli import misses as miss_module
from memlaw_jax.models import Adapter, Base, LoraConfig
from memlaw_jax.readout import encode, free_run

from .conftest import Memlaw
from .test_fit_command import one_object
from .test_mistakes import assert_told

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def adapter(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the model thoroughly, of random numbers: no training is needed to have something said."""
    lora = LoraConfig(rank=3)
    made = Adapter(
        lora=lora, layers=lora.adapted_layers(base.config), weights=random_adapter(base.config, lora, 1),
        model=base.name, model_fingerprint=base.fingerprint,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("recall") / "adapter"
    made.save(folder)
    return folder


@pytest.fixture(scope="module")
def sayings(base: Base, adapter: Path) -> dict[str, str]:
    """Three queries, and the 9 characters that the adapter says after each; no end of the text is among them."""
    queries = [f"query number {i}:" for i in range(20)]
    prompts = [base.tokenizer(query).input_ids for query in queries]
    texts = [base.tokenizer.decode(list(ids)) for ids in ml.decode(base, ml.load_adapter(adapter), prompts, tokens=9)]
    found = {query: text for query, text in zip(queries, texts, strict=True) if "<|" not in text and text.isascii()}
    assert len(found) >= 3, texts
    return dict(list(found.items())[:3])


def write(path: Path, targets: dict[str, str]) -> Path:
    lines = [{"id": f"r{i}", "query": query, "target": text} for i, (query, text) in enumerate(targets.items())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def other(text: str, place: int) -> str:
    """The text with another character at a place."""
    return text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]


@pytest.fixture
def whole(sayings: dict[str, str], tmp_path: Path) -> Path:
    return write(tmp_path / "whole.jsonl", sayings)


@pytest.fixture
def broken(sayings: dict[str, str], tmp_path: Path) -> Path:
    """The first as it is said; the others with another sixth and another second character."""
    places = dict(zip(list(sayings)[1:], (5, 1), strict=True))
    targets = {query: other(text, places[query]) if query in places else text for query, text in sayings.items()}
    return write(tmp_path / "broken.jsonl", targets)


def test_what_the_adapter_says_is_recalled(adapter: Path, whole: Path, memlaw: Memlaw) -> None:
    said = memlaw("recall", adapter, "--data", whole)
    assert said.code == 0, said.err
    assert "3 of 3 records are recalled word for word: exact match 100.0% (95 % interval 43.9% to 100.0%" in said.out
    assert "Of 27 answer tokens 100.0% are the arg-max" in said.out and "Not recalled" not in said.out
    found = one_object(memlaw("recall", adapter, "--data", whole, "--json").out)
    assert found["exact_match"] == 1.0 and found["misses"] == [] and found["first_failure"] is None


def test_misses_are_what_verification_and_decoding_give(
    base: Base, adapter: Path, broken: Path, sayings: dict[str, str], memlaw: Memlaw
) -> None:
    said = memlaw("recall", adapter, "--data", broken, "--json")
    assert said.code == 0 and said.err == "", said.err
    found = one_object(said.out)
    assert (found["records"], found["answer_tokens"]) == (3, 27)
    assert found["exact_match"] == pytest.approx(1 / 3) and found["first_failure"] == (5 + 1) / 2
    # the same from the base model's own logits, in float64
    loaded, nats, right, below = ml.load_adapter(adapter), [], [], {}
    for line in map(json.loads, broken.read_text().splitlines()):
        prompt, target = (base.tokenizer(line[key]).input_ids for key in ("query", "target"))
        logits = np.asarray(base.logits(np.array([prompt + target]), adapter=loaded), np.float64)[0]
        logits = logits[len(prompt) - 1 : -1]
        own = np.log(np.exp(logits).sum(-1)) - logits[np.arange(9), target]
        nats.append(own)
        right.append(logits.argmax(-1) == target)
        below[line["id"]] = int((own >= np.log(2)).sum())
    assert found["loss"] == pytest.approx(np.mean(nats), abs=1e-4)
    assert found["p_min"] == pytest.approx(np.exp(-np.max(nats)), rel=1e-3)
    assert found["token_accuracy"] == pytest.approx(np.mean(right))
    assert found["fraction_above_half"] == pytest.approx(np.mean(np.array(nats) < np.log(2)))
    second, first = found["misses"]  # those that break off first on top
    for miss, row, place in ((first, 1, 5), (second, 2, 1)):
        target = json.loads(broken.read_text().splitlines()[row])["target"]
        assert miss["record"] == f"r{row}" and miss["tokens"] == 9 and miss["right_before_error"] == place
        assert miss["target"] == target and miss["expected"] == target[place]
        assert miss["decoded"] == list(sayings.values())[row][place] and miss["answer"] == list(sayings.values())[row]
        assert miss["probability"] == pytest.approx(np.exp(-nats[row][place]), rel=1e-3)
        assert miss["tokens_below_half"] == below[f"r{row}"]


def test_the_table_has_a_row_a_miss(adapter: Path, broken: Path, sayings: dict[str, str], memlaw: Memlaw) -> None:
    said = memlaw("recall", adapter, "--data", broken)
    found = one_object(memlaw("recall", adapter, "--data", broken, "--json").out)["misses"]
    head, *rows = said.out.partition("Not recalled:\n")[2].splitlines()
    assert head.split("  ")[1] == "record" and "instead of" in head
    assert len(rows) == 2
    for row, miss in zip(rows, found, strict=True):
        words = [
            miss["record"], str(miss["right_before_error"]), "9", repr(miss["decoded"]), repr(miss["expected"]),
            f"{miss['probability']:.2g}", str(miss["tokens_below_half"]),
        ]  # fmt: skip
        assert row.split() == " ".join(words).split()
        assert len(row) == len(head)  # numbers under the end of their heads
    assert list(sayings.values())[1] not in said.out  # which `--decode greedy` shows


def test_greedy_decoding_shows_what_was_said(
    adapter: Path, broken: Path, sayings: dict[str, str], memlaw: Memlaw
) -> None:
    said = memlaw("recall", adapter, "--data", broken, "--decode", "greedy")
    assert said.code == 0, said.err
    for row in (1, 2):
        target = json.loads(broken.read_text().splitlines()[row])["target"]
        assert f"  r{row}\n    target  {target!r}\n    said    {list(sayings.values())[row]!r}\n" in said.out + "\n"
    # all but the two characters that are not what it says
    assert "exact match 33.3%, 92.6% of the tokens right, position by position" in said.out
    found = one_object(memlaw("recall", adapter, "--data", broken, "--decode", "greedy", "--json").out)
    assert found["token_accuracy_free"] == pytest.approx(25 / 27)
    assert found["exact_match_free"] == pytest.approx(1 / 3)


def test_sampling_says_how_often_and_its_seed_repeats(adapter: Path, whole: Path, memlaw: Memlaw) -> None:
    def drawn(*more: Any) -> list[dict[str, Any]]:
        said = memlaw("recall", adapter, "--data", whole, "--decode", "sample", *more, "--json")
        assert said.code == 0 and said.err == "", said.err
        return one_object(said.out)["sampled"]

    cold = drawn("--top-k", 1, "--draws", 3)  # is greedy
    assert [entry["recalled"] for entry in cold] == [3, 3, 3] and [entry["draws"] for entry in cold] == [3, 3, 3]
    assert [entry["record"] for entry in cold] == ["r0", "r1", "r2"]
    assert all(0 < entry["p_verbatim"] < 1 for entry in cold)
    warm = drawn("--temperature", 0.3, "--draws", 20)
    assert 0 < sum(entry["recalled"] for entry in warm) < 60, warm
    assert drawn("--temperature", 0.3, "--draws", 20) == warm
    assert drawn("--temperature", 0.3, "--draws", 20, "--seed", 100) != warm
    said = memlaw("recall", adapter, "--data", whole, "--decode", "sample", "--top-k", 1, "--draws", 2)
    assert "Drawn 2 times: 100.0% of the answers came back whole, 100.0% of the records at least once." in said.out
    assert "drawing" in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--draws", "0"], ["--draws", "0"]),
        (["--draws", "ten"], ["--draws", "ten"]),
        (["--temperature", "0"], ["temperature", "0", "greater than 0"]),
        (["--temperature", "inf"], ["temperature", "inf"]),
        (["--top-p", "0"], ["top_p", "0"]),
        (["--top-p", "2"], ["top_p", "2", "1"]),
        (["--top-k", "0"], ["top_k", "0"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--decode", "beam"], ["beam", "greedy", "sample"]),
        (["--dtype", "float8"], ["float8"]),
        (["--model", "/no/such/model"], ["/no/such/model"]),
    ],
)
@pytest.mark.parametrize("decode", [[], ["--decode", "sample"]], ids=["", "sampled"])
def test_an_impossible_value_is_one_sentence(
    adapter: Path, whole: Path, memlaw: Memlaw, arguments: list[str], words: list[str], decode: list[str]
) -> None:
    assert_told(memlaw("recall", adapter, "--data", whole, *decode, *arguments), *words)


def test_what_is_missing_or_damaged_is_one_sentence(adapter: Path, whole: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    assert_told(memlaw("recall", tmp_path / "none", "--data", whole), str(tmp_path / "none"), "no adapter directory")
    assert_told(memlaw("recall", tmp_path, "--data", whole), str(tmp_path), "no adapter directory")
    assert_told(memlaw("recall", adapter, "--data", tmp_path / "none.jsonl"), "none.jsonl", "no such file")
    assert_told(memlaw("recall", adapter), "--data")
    cut = Path(shutil.copytree(adapter, tmp_path / "cut"))
    (cut / "adapter.safetensors").write_bytes((cut / "adapter.safetensors").read_bytes()[:100])
    assert_told(memlaw("recall", cut, "--data", whole), str(cut), "corrupt")


def test_another_model_is_told(base: Base, adapter: Path, whole: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    """One of other shapes is refused; of other weights only a warning is given."""
    assert_told(memlaw("recall", adapter, "--data", whole, "--model", "embedded"), str(base.name), "differs")
    path = Path(shutil.copytree(adapter, tmp_path / "elsewhere")) / "memlaw_adapter.json"
    path.write_text(path.read_text().replace(base.fingerprint, "0" * 16))
    said = memlaw("recall", path.parent, "--data", whole)
    assert said.code == 0 and "3 of 3 records" in said.out
    told = f"memlaw: warning: the adapter was trained on other weights, those of {base.name}\n"
    assert said.err.startswith(told) and said.err.count("warning") == 1


def test_records_beyond_one_pass_are_joined(
    base: Base, adapter: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each report is on its own records."""
    encoded = encode(base, ml.RecordsTask(path=broken).samples(base.tokenizer, None))
    loaded = ml.load_adapter(adapter)
    monkeypatch.setattr(miss_module, "ROWS", 1)
    report, free = miss_module.checked(base, loaded, encoded, bar=False)
    at_once = ml.recall(base, loaded, encoded)
    assert report.keys == at_once.keys == free.keys == ("r0", "r1", "r2")
    np.testing.assert_allclose(report.nats, at_once.nats, atol=1e-5)
    np.testing.assert_array_equal(report.right, at_once.right)
    np.testing.assert_array_equal(free.ids, free_run(base, loaded, encoded).ids)


def test_a_long_table_is_cut_and_a_long_word_too(base: Base) -> None:
    def miss(i: int) -> dict[str, Any]:
        return {
            "record": f"record {i} " + "long " * 20, "tokens": 100, "right_before_error": i, "probability": None,
            "tokens_below_half": 0, "expected": "  ", "decoded": "\n", "target": "", "answer": "",
        }  # fmt: skip

    lines = miss_module.table([miss(i) for i in range(25)]).splitlines()
    assert len(lines) == 1 + 20 + 1 and lines[-1] == "  … and 5 more (all of them with --json)"
    assert all(len(line) < 120 for line in lines) and "…" in lines[1]
    assert "'\\n'" in lines[1] and "'  '" in lines[1] and "no number" in lines[1]  # blanks are shown as they are
