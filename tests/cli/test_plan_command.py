"""`memlaw plan`: a rank for so many tokens, a sweep for a law, and what may not be asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from memlaw_jax.analysis import fit_law

from .conftest import Memlaw
from .test_fit_command import one_object
from .test_mistakes import assert_told


@pytest.fixture(scope="module")
def law_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A law of 7 × 6 cells of 100 samples and more; rank 8 recalls nearly all of 3200 tokens."""
    rng = np.random.default_rng([0, 2026])
    rank, length = (x.ravel() for x in np.meshgrid([1, 2, 4, 8, 16, 32, 64], [1600, 3200, 6400, 12800, 25600, 51200]))
    delta = 20 * rank**0.6 / length**0.5 + 0.3
    frame = pd.DataFrame(
        {
            "rank": rank,
            "length": length,
            "seed": 0,
            "loss_initial": 2.6,
            "loss_final": np.maximum(2.6 - delta + 0.01 * rng.standard_normal(len(rank)), 0.0),
            "exact_match": 1 / (1 + np.exp(-4 - 10 * np.log(delta / 2.6))),
            "samples": length // 10,
            "steps": length * 5,
            "token_visits": length * 200,
            "effective_parameters": rank * 512,
        }
    )
    folder = tmp_path_factory.mktemp("law")
    fit_law(frame, bootstrap=50).save(folder)
    return folder / "law.json"


def test_a_plan_in_words_and_as_json(law_file: Path, memlaw: Memlaw) -> None:
    said = memlaw("plan", "--law", law_file, "--tokens", 3200)
    assert said.code == 0, said.err
    assert said.out.startswith("To recall 99 % of the samples word for word, 3,200 tokens need rank ")
    assert "95 % interval" in said.out and "float32" in said.out and "steps" in said.out
    found = one_object(memlaw("plan", "--law", law_file.parent, "--tokens", 3200, "--json").out)
    assert f"rank {found['rank']}" in said.out and found["recall"] == 0.99
    assert found["interval"][0] <= found["rank"] <= found["interval"][1]
    assert found["effective_parameters"] == 512 * found["rank"] and found["budget"]["steps"] == 16000
    less = one_object(memlaw("plan", "--law", law_file, "--tokens", 3200, "--recall", 0.5, "--json").out)
    assert less["recall"] == 0.5 and less["rank"] < found["rank"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--law", "memlaw fit"]),
        (["--law", "LAW"], ["--tokens N"]),
        (["--law", "LAW", "--tokens", "0"], ["tokens is 0", "1 or more"]),
        (["--law", "LAW", "--tokens", "-4"], ["tokens is -4"]),
        (["--law", "LAW", "--tokens", "many"], ["--tokens", "many"]),
        (["--law", "LAW", "--tokens", "9", "--recall", "1"], ["recall is 1", "between 0 and 1"]),
        (["--law", "LAW", "--tokens", "9", "--recall", "nan"], ["recall is nan"]),
        (["--law", "LAW", "--tokens", "9", "--width", "0.1"], ["--width", "--design"]),
        (["--law", "LAW", "--tokens", "9", "--max-seeds", "2"], ["--max-seeds", "--design"]),
        (["--law", "nowhere", "--tokens", "9"], ["nowhere", "memlaw fit"]),
        (["--design"], ["--width W"]),
        (["--design", "--width", "0.1", "--tokens", "9"], ["--tokens", "--design"]),
        (["--design", "--width", "0.1", "--recall", "0.9"], ["--recall", "--design"]),
        (["--design", "--width", "0.1", "--ranks", "1,two"], ["1,two", "whole numbers"]),
        (["--design", "--width", "-1"], ["width", "-1"]),
    ],
)
def test_what_may_not_be_asked(arguments: list[str], words: list[str], law_file: Path, memlaw: Memlaw) -> None:
    assert_told(memlaw("plan", *[str(law_file) if word == "LAW" else word for word in arguments]), *words)


def test_a_sweep_is_proposed_and_written(law_file: Path, memlaw: Memlaw, tmp_path: Path) -> None:
    asked = (
        "plan",
        "--design",
        "--width",
        0.15,
        "--ranks",
        "1,2,4,8,16,32",
        "--lengths",
        "3200,6400,12800,25600,51200",
    )
    said = memlaw(*asked, "--law", law_file)
    assert said.code == 0, said.err
    out = tmp_path / "next"
    found = one_object(memlaw(*asked, "--law", law_file, "--max-seeds", 4, "--out", out, "--json").out)
    assert set(found["ranks"]) <= {1, 2, 4, 8, 16, 32} and found["seeds"] <= 4 and found["width_alpha"] <= 0.15
    assert found["files"] and {Path(path).parent for path in found["files"]} == {out}
    for path in found["files"]:
        assert set(yaml.safe_load(Path(path).read_text())["ranks"]) <= set(found["ranks"])


def test_the_example_of_the_help_that_needs_no_file_works(memlaw: Memlaw) -> None:
    from memlaw_jax.cli.plan import EXAMPLE

    examples = [line.split()[1:] for line in EXAMPLE.splitlines() if "--design" in line and "--law" not in line]
    assert examples
    for example in examples:
        said = memlaw(*example)
        assert said.code == 0, said.err


def test_a_sweep_without_a_law_rests_on_a_stated_one(memlaw: Memlaw) -> None:
    said = memlaw("plan", "--design", "--width", 0.2)
    assert said.code == 0 and "Assumed" in said.out
    assert json.loads(memlaw("plan", "--design", "--width", 0.2, "--json").out)["law"] is None
