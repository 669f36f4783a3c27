"""Reading per-token arrays: positions, what older folders lack, and what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from memlaw_jax.analysis import read_tokens
from memlaw_jax.errors import UserError

from .simulate_tokens import run_arrays, write_folder

P = [0.9, 0.4, 0.6, 0.2, 0.8]
SAMPLE = [0, 0, 2, 2, 2]  # sample 1 has no counted token


def test_a_row_is_a_token_with_its_run_sample_and_position(tmp_path):
    texts = {"labels": np.arange(5, dtype=np.int32), "pieces": np.array(["a", " b", "\n", "d", "é"])}
    free = {"free_right": np.array([1, 0, 1, 0, 0], bool)}
    runs = [(run_arrays(P, sample=SAMPLE, **texts, **free), {"rank": 8, "seed": 3}), (run_arrays(P), {"rank": 2})]
    tokens = read_tokens(write_folder(tmp_path / "a", runs))
    first, second = (tokens.table[tokens.table["run"] == run] for run in (0, 1))
    assert list(first["position"]) == [0, 1, 0, 1, 2] and list(second["position"]) == [0, 1, 2, 3, 4]
    assert list(first["sample"]) == SAMPLE
    np.testing.assert_allclose(first["p"], P, rtol=1e-6)  # nats are float32
    assert list(first["right"]) == [True, False, True, False, True]
    assert set(first["rank"]) == {8} and set(first["seed"]) == {3} and set(second["rank"]) == {2}
    assert list(first["piece"]) == ["a", " b", "\n", "d", "é"] and list(first["label"]) == [0, 1, 2, 3, 4]
    assert list(first["free_right"]) == [True, False, True, False, False]
    assert second[["label", "piece", "free_right"]].isna().all(axis=None)
    assert list(tokens.runs["decoded"]) == [True, False] and list(tokens.runs["frozen"]) == ["float32"] * 2


def test_a_tie_at_one_half_does_not_count_as_above(tmp_path):
    arrays = run_arrays([0.5]) | {"nats": np.float32([np.log(2)])}  # what log1p(1) gives in float32
    assert (read_tokens(write_folder(tmp_path / "a", [(arrays, {})])).table["p"] <= 0.5).all()


def test_several_folders_are_one_table_and_reading_again_changes_nothing(tmp_path):
    paths = [write_folder(tmp_path / name, [(run_arrays(P), {"rank": rank})]) for name, rank in (("a", 1), ("b", 2))]
    for path in paths[1:]:  # cell ids are hashes of what sets cells apart
        (path / "tokens" / f"{0:016x}.npz").rename(path / "tokens" / f"{7:016x}.npz")
        (path / "results.jsonl").write_text((path / "results.jsonl").read_text().replace(f"{0:016x}", f"{7:016x}"))
    tokens = read_tokens([paths[0], paths[1] / "results.jsonl"])
    assert list(tokens.runs["rank"]) == [1, 2] and len(tokens.table) == 10
    assert read_tokens(tokens) is tokens
    with pytest.raises(UserError, match="already given"):
        read_tokens([paths[0], paths[0]])


def test_diverged_runs_and_losses_that_are_no_number_are_left_out_and_listed(tmp_path):
    broken = run_arrays(P)
    broken["nats"][2] = np.nan
    runs = [
        (run_arrays(P), {"rank": 1}),
        (run_arrays(P), {"rank": 2, "stopped": "diverged", "loss_final": None}),
        (broken, {"rank": 3, "loss_final": 1.0}),
    ]
    tokens = read_tokens(write_folder(tmp_path / "a", runs))
    assert list(tokens.runs["rank"]) == [1]
    assert [run["rank"] for run in tokens.diverged] == [2, 3] and len(tokens.table) == len(P)
    with pytest.raises(UserError, match=r"no finished run \(1 diverged\)"):
        read_tokens(write_folder(tmp_path / "b", runs[2:]))


def spoil(folder, **arrays):
    """Write the file of the first run again."""
    kept = {name: array for name, array in (run_arrays(P) | arrays).items() if array is not None}
    np.savez_compressed(folder / "tokens" / f"{0:016x}.npz", **kept)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"right": None}, "has no array right"),
        ({"nats": np.zeros(4, np.float32)}, r"counts 5 answer tokens, .*nats \[4\]"),
        ({"labels": np.zeros(3, np.int32)}, r"labels \[3\]"),
        ({"free_right": np.zeros((5, 1), bool)}, r"free_right \[5, 1\]"),
        ({"sample": np.array([0, 1, 0, 1, 1], np.int32)}, "sample after sample"),
        ({"nats": np.full(5, -1, np.float32)}, "nats holds -1"),
        ({"pieces": np.array(["a", None, "b", "c", "d"], object)}, "cannot be read"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, arrays, message):
    folder = write_folder(tmp_path / "a", [(run_arrays(P), {})])
    spoil(folder, **arrays)
    with pytest.raises(UserError, match=f"{0:016x}.npz.*{message}"):
        read_tokens(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x93NUMPY"])
def test_a_corrupt_file_is_named(tmp_path, content):
    folder = write_folder(tmp_path / "a", [(run_arrays(P), {})])
    (folder / "tokens" / f"{0:016x}.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"{0:016x}.npz cannot be read"):
        read_tokens(folder)


def test_a_truncated_file_is_named(tmp_path):
    folder = write_folder(tmp_path / "a", [(run_arrays(P), {})])
    path = folder / "tokens" / f"{0:016x}.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"npz cannot be read"):
        read_tokens(folder)


def test_folders_without_tokens_are_refused(tmp_path):
    folder = write_folder(tmp_path / "a", [(run_arrays(P), {})])
    (folder / "tokens" / f"{0:016x}.npz").unlink()
    with pytest.raises(UserError, match=r"npz is missing, though results\.jsonl has its record"):
        read_tokens(folder)
    (folder / "tokens").rmdir()
    with pytest.raises(UserError, match="has no tokens folder"):
        read_tokens(folder)
    with pytest.raises(UserError, match="there is no"):
        read_tokens(tmp_path / "nothing")
    with pytest.raises(UserError, match="a table of runs holds no tokens"):
        read_tokens(pd.DataFrame({"rank": [1]}))
    record = json.loads((folder / "results.jsonl").read_text())
    del record["cell_id"]
    (folder / "tokens").mkdir()
    (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="no cell_id"):
        read_tokens(folder)
