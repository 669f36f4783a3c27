"""`memlaw compare`: two result sets side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from .conftest import Memlaw
from .test_fit_command import one_object


def runs(seed: int) -> pd.DataFrame:
    """Two seeds of 4 × 4 cells on ΔL = 20 r^0.6 ℓ^(−0.5) + 0.3 with noise of 0.02 nats."""
    rng = np.random.default_rng([seed, 2026])
    grid = [(r, n, s) for r in (1, 2, 4, 8) for n in (4000, 8000, 16000, 32000) for s in (0, 1)]
    frame = pd.DataFrame(grid, columns=["rank", "length", "seed"]).assign(loss_initial=2.6)
    delta = 20 * frame["rank"] ** 0.6 * frame["length"] ** -0.5 + 0.3
    return frame.assign(loss_final=2.6 - delta + 0.02 * rng.standard_normal(len(frame)))


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of records, and a table whose losses are 0.1 nats lower."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs.csv"
    ours.mkdir()
    rows = runs(0).assign(method="sft", learning_rate=0.01).to_dict("records")
    (ours / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lower = runs(1).assign(method="memft-ot", learning_rate=0.003)
    lower.assign(loss_final=lower["loss_final"] - 0.1)[lower["rank"] < 8].to_csv(theirs, index=False)
    return ours, theirs


def test_words_files_and_figure(sets: tuple[Path, Path], memlaw: Memlaw, tmp_path: Path) -> None:
    said = memlaw("compare", *sets)
    assert said.code == 0 and said.err == "", said.err
    for part in ("B ends 0.", "lower on average", "12 matched cells", "A is sft, B is memft-ot", "learning_rate 0.01"):
        assert part in said.out, part
    assert "α: A " in said.out and "Only A has 4 cells without a partner" in said.out
    for kind in ("csv", "json", "md", "png", "svg"):
        path = sets[0] / "compare" / f"compare.{kind}"
        assert path.stat().st_size > 500 and str(path) in said.out
    assert {path.name for path in sets[0].iterdir()} == {"results.jsonl", "compare"}


def test_json_is_one_object(sets: tuple[Path, Path], memlaw: Memlaw, tmp_path: Path) -> None:
    found = one_object(memlaw("compare", *sets, "--out", tmp_path / "out", "--json").out)
    assert found["cells"] == 12 and len(found["only_a"]) == 4 and found["only_b"] == []
    assert found["overall"]["final"]["low"] < -0.1 < found["overall"]["final"]["high"] < 0
    matched, own = found["laws"]
    assert matched["over"] == "matched cells" and own["over"] == "all cells"
    assert matched["differences"]["alpha"]["low"] < matched["differences"]["alpha"]["high"]
    assert matched["a"]["alpha"] > 0 and own["a"]["cells"] > matched["a"]["cells"]
    assert found["out"] == str(tmp_path / "out") and all(Path(path).exists() for path in found["files"])


def test_a_table_of_two_cells_has_no_law_and_that_is_no_error(memlaw: Memlaw, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("rank,length,loss_initial,loss_final\n1,100,8,5\n2,100,8,4\n")
    said = memlaw("compare", tmp_path / "a.csv", tmp_path / "a.csv", "--out", tmp_path / "out")
    assert said.code == 0 and "exactly the same loss in 2 matched cells" in said.out
    assert "No law of A: only 2 unsaturated cells" in said.out
    found = one_object(memlaw("compare", tmp_path / "a.csv", tmp_path / "a.csv", "--json").out)
    assert found["laws"][0]["a"] is None and (tmp_path / "compare" / "compare.md").exists()


def test_the_release_stands_beside_ours(sets: tuple[Path, Path], memlaw: Memlaw, tmp_path: Path) -> None:
    for rank in (1, 2):
        place = tmp_path / f"vectors/pb/sft/qwen3-8b/random/length_4000/layer_24/rank_{rank}"
        place.mkdir(parents=True)
        (place / "losses.csv").write_text(
            "epoch,step,pos_steer_loss,pos_ref_loss,pos_steering_factors,token_nums\n"
            "0,0,2.6,2.6,tensor([1.]),10\n1,0,1.5,2.6,tensor([1.]),10\n"
        )
    said = memlaw("compare", sets[0], tmp_path / "vectors", "--out", tmp_path / "out")
    assert said.code == 0 and "2 matched cells" in said.out
    assert said.err.count("warning") == 1 and "no final-loss pass" in said.err
    assert "B's loss_from is last training epoch, dropout on in 2 of 2 cells." in said.out
    fitted = memlaw("fit", tmp_path / "vectors", "--method", "sft")
    assert fitted.code == 2 and "only 2 unsaturated cells" in fitted.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ours"], ["required", "B"]),
        (["ours", "nowhere.csv"], ["nowhere.csv"]),
        (["ours", "other.csv"], ["share no cell", "ranks 1, 2, 4, 8", "lengths 77"]),
        (["ours", "theirs.csv", "--method", "sgd"], ["sgd", "sft"]),
        (["ours", "theirs.csv", "--method-b", "sgd"], ["sgd", "memft-ot"]),
        (["ours", "theirs.csv", "--filter", "magic"], ["magic", "predicted"]),
    ],
)
def test_mistakes_are_one_sentence(
    sets: tuple[Path, Path], memlaw: Memlaw, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(sets[0].parent)
    Path("other.csv").write_text("rank,length,loss_initial,loss_final\n1,77,8,5\n")
    said = memlaw("compare", *arguments, "--out", "out")
    assert said.code == 2 and said.out == "" and len(said.err.strip().splitlines()) == 1
    assert said.err.startswith("memlaw: error: ") and all(word in said.err for word in words), said.err
    assert not Path("out").exists()
