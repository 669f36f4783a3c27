"""Reading results: what passes through and what is refused, by line."""

from __future__ import annotations

import json
import warnings

import pandas as pd
import pytest

from memlaw_jax.analysis import fit_law, read_frame
from memlaw_jax.errors import UserError

from .simulate import BASE, simulate


def record(**changes):
    base = {
        "cell_id": "a1",
        "method": "sft",
        "rank": 2,
        "length": 64,
        "seed": 0,
        "loss_initial": 8.5,
        "loss_final": 3.25,
    }
    return base | {"targets": ["mlp"], "mesh": {"adapters": 1}, "stopped": "budget", "exact_match": 0.5} | changes


def write(path, records, tail=""):
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + tail)
    return path


def test_a_folder_a_jsonl_a_csv_and_a_frame_agree(tmp_path):
    frame = simulate(BASE, 0)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "results.jsonl").write_text(frame.to_json(orient="records", lines=True, double_precision=15))
    columns = list(frame.columns)
    whole = read_frame(frame)
    # pandas' JSON writer keeps 15 digits, and its CSV reader before 3.1 may lose the last bit.
    pd.testing.assert_frame_equal(read_frame(tmp_path / "runs.csv")[columns], whole, rtol=1e-14)
    pd.testing.assert_frame_equal(read_frame(tmp_path)[columns], whole, rtol=1e-14)
    pd.testing.assert_frame_equal(read_frame(str(tmp_path / "results.jsonl"))[columns], whole, rtol=1e-14)


def test_other_columns_pass_through_and_lists_concatenate(tmp_path):
    one = write(tmp_path / "a.jsonl", [record(), record(cell_id="a2", seed=1)])
    two = write(tmp_path / "b.jsonl", [record(cell_id="b1", rank=4)])
    frame = read_frame([one, two])
    assert list(frame["rank"]) == [2, 2, 4] and list(frame["exact_match"]) == [0.5] * 3
    assert frame["targets"][0] == ["mlp"] and frame.attrs["source"] == (str(one), str(two))
    again = read_frame(frame)
    pd.testing.assert_frame_equal(again, frame)
    assert again.attrs == frame.attrs


def test_reading_again_keeps_the_count_of_diverged_runs(tmp_path):
    bad = record(cell_id="a2", rank=64, stopped="diverged", loss_final=float("nan"))
    frame = read_frame(write(tmp_path / "results.jsonl", [record(), bad]))
    assert len(frame) == 1
    assert frame.attrs["diverged"] == ({"rank": 64, "length": 64, "method": "sft"},)
    assert read_frame(frame).attrs["diverged"] == frame.attrs["diverged"]
    with pytest.raises(UserError, match=r"no finished run \(1 diverged\)"):
        read_frame(write(tmp_path / "results.jsonl", [bad]))


def test_a_torn_last_line_is_left_out_with_a_warning(tmp_path):
    path = write(tmp_path / "results.jsonl", [record()], tail='{"cell_id": "a2", "ra')
    with pytest.warns(UserWarning, match="line 2 is torn"):
        assert len(read_frame(path)) == 1


def test_a_whole_file_warns_of_nothing(tmp_path):
    path = write(tmp_path / "results.jsonl", [record()])
    path.write_text(path.read_text().rstrip("\n"))  # a last line without its newline is whole all the same
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_frame(path)) == 1


@pytest.mark.parametrize(
    ("records", "tail", "message"),
    [
        ([record()], '{"rank": \n' + json.dumps(record(cell_id="z")) + "\n", "line 2 is no JSON"),
        ([record()], "17\n", "line 2 is 17; every line is one JSON object"),
        ([], "", "no complete record"),
        ([{k: v for k, v in record().items() if k != "loss_final"}], "", "no column loss_final"),
        ([record(), record(cell_id="b", rank=-4)], "", "line 2: rank is -4; .* whole positive"),
        ([record(), record(cell_id="b", rank=2.5)], "", "line 2: rank is 2.5"),
        ([record(), record(cell_id="b", length=0)], "", "line 2: length is 0"),
        ([record(), record(cell_id="b", loss_initial=float("inf"))], "", "line 2: loss_initial is inf"),
        ([record(), record(cell_id="b", loss_final=float("nan"))], "", "line 2: loss_final is nan"),
        ([record(), record(cell_id="b", loss_final=-0.1)], "", r"line 2: loss_final is -0\.1"),
        ([record(), record(cell_id="b", loss_final="low")], "", "line 2: loss_final is low"),
        ([record(), record(cell_id="b", loss_final=None)], "", "line 2: loss_final is (nan|empty)"),
        ([record(), record(cell_id="b"), record()], "", r"line 3: .*loss_final 3\.25.* at .*line 1"),
        ([record(), record(seed=4)], "", "line 2: cell_id a1 .* at .*line 1"),
    ],
)
def test_bad_records_are_named_by_line(tmp_path, records, tail, message):
    with pytest.raises(UserError, match=message):
        read_frame(write(tmp_path / "results.jsonl", records, tail))


def test_bad_csv_lines_are_named_as_an_editor_counts_them(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("rank,length,loss_initial,loss_final\n1,100,8,5\n\n2,100,8,-4\n")
    with pytest.raises(UserError, match="line 4: loss_final is -4"):
        read_frame(path)
    path.write_text("rank,length,loss_initial,loss_final\n1,100,8,5\n1,100,8\n")
    with pytest.raises(UserError, match=r"line 3: loss_final is (nan|empty)"):
        read_frame(path)
    path.write_text("")
    with pytest.raises(UserError, match="no CSV table"):
        read_frame(path)
    path.write_text("rank,length,loss_initial,loss_final\n1,100,8,5\n1,100,8,5\n")
    with pytest.raises(UserError, match=r"line 3: the same run .* at .*line 2; remove one, or add a seed column"):
        read_frame(path)


def test_the_same_file_twice_is_not_two_seeds(tmp_path):
    path = write(tmp_path / "a.jsonl", [record()])
    with pytest.raises(UserError, match="already given"):
        read_frame([path, path])


def test_wrong_places(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        read_frame(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"there is no .*results\.jsonl"):
        read_frame(tmp_path)
    (tmp_path / "runs.xlsx").write_text("")
    with pytest.raises(UserError, match=r"ends in '\.xlsx'"):
        read_frame(tmp_path / "runs.xlsx")
    with pytest.raises(UserError, match="no results were given"):
        read_frame([])
    (tmp_path / "runs.parquet").write_bytes(b"PAR0")
    with pytest.raises(UserError, match=r"pyarrow|no Parquet table"):
        read_frame(tmp_path / "runs.parquet")


def test_parquet_passes(tmp_path):
    pytest.importorskip("pyarrow")
    frame = simulate(BASE, 0)
    frame.to_parquet(tmp_path / "runs.parquet")
    pd.testing.assert_frame_equal(read_frame(tmp_path / "runs.parquet"), read_frame(frame))


def test_a_row_of_a_frame_is_named_by_its_label():
    frame = simulate(BASE, 0)
    frame.loc[17, "loss_final"] = -1.0
    with pytest.raises(UserError, match="the DataFrame, row 17: loss_final"):
        read_frame(frame[10:])


def test_spreadsheets_csv_with_a_mark_and_spaces_is_read(tmp_path):
    path = tmp_path / "runs.CSV"
    path.write_bytes(
        "\ufeffrank, length, loss_initial, loss_final, note\r\n1, 100, 8, 5,\r\n2, 100, 8, 4, x\r\n".encode()
    )
    assert list(read_frame(path)["rank"]) == [1, 2]


def test_the_same_numbers_are_found_twice_beside_empty_fields(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("rank,length,loss_initial,loss_final,seed\n1,100,8,5,\n2,100,8,4,0\n1,100,8,5,\n")
    with pytest.raises(UserError, match=r"line 4: the same run .* at .*line 2"):
        read_frame(path)


def test_decimal_commas_are_not_taken_for_columns(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("rank,length,loss_initial,loss_final\n1,1000,2,6,1,0\n2,1000,2,6,0,5\n")
    with pytest.raises(UserError, match=r"runs\.csv is no CSV table"):
        read_frame(path)


def test_one_seed_has_one_result(tmp_path):
    """Another loss under the same seed would count as a second seed."""
    path = tmp_path / "runs.csv"
    path.write_text("rank,length,seed,loss_initial,loss_final\n1,100,0,8,5\n2,100,0,8,4\n1,100,0,8,4.9\n")
    with pytest.raises(UserError, match=r"line 4: the same run with another result .* at .*line 2"):
        read_frame(path)
    path.write_text("rank,length,seed,rate,loss_initial,loss_final\n1,100,0,0.1,8,5\n1,100,0,0.2,8,4.9\n")
    assert len(read_frame(path)) == 2


def test_columns_that_allow_nothing_are_averaged_over_what_there_is():
    frame = simulate(BASE, 0)
    steps = pd.array([100] * len(frame), dtype="Int64")
    steps[3] = pd.NA
    law = fit_law(frame.assign(steps=steps, method=7), method="7", bootstrap=0)
    assert all(cell.steps == 100 for cell in law.cells) and law.method == "7"
