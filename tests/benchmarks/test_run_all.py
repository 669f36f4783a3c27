"""All benchmarks by one command, with scripts of a line or two in the place of the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_all import SCRIPTS, main, run_all

from .conftest import BENCHMARKS

GOOD = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
print("arguments", *sys.argv[1:4], *sys.argv[5:])
if "--dry-run" not in sys.argv:
    out.mkdir(parents=True)
    (out / "table.md").write_text("a table")
    (out / "result.json").write_text(json.dumps({"claims": CLAIMS}))
"""
CLAIM = {"claim": "α | β are the same", "verdict": "undecided", "evidence": "0.5 [0.4, 0.6]"}


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Three scripts, of which the second fails."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "first.py").write_text(GOOD.replace("CLAIMS", repr([CLAIM])))
    (folder / "second.py").write_text("raise SystemExit(3)")
    (folder / "third.py").write_text(GOOD.replace("CLAIMS", "[]"))
    return folder


def test_one_that_fails_stops_no_other(scripts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert run_all(scripts, ["first", "second", "third"], "tiny", out) == 1
    lines = capfd.readouterr().out.splitlines()
    assert sum(line.startswith("arguments --scale tiny --out") for line in lines) == 2
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[1].startswith("| first | ended well |") and rows[1].endswith(f"{out / 'first' / 'table.md'} |")
    assert rows[2].startswith("| second | FAILED (code 3) |") and rows[2].endswith("| none |")
    assert rows[3].startswith("| third | ended well |")


def test_all_well_is_zero(scripts: Path, tmp_path: Path):
    assert run_all(scripts, ["first", "third"], "embedded", tmp_path / "out") == 0


def test_claims_are_collected(scripts: Path, tmp_path: Path):
    out = tmp_path / "out"
    run_all(scripts, ["first", "third"], "tiny", out)
    lines = (out / "claims.md").read_text().splitlines()
    assert lines[0] == "| claim | verdict | evidence | script |"
    assert lines[2:] == ["| α \\| β are the same | undecided | 0.5 [0.4, 0.6] | first |"]


def test_a_result_that_is_none_is_told_and_left_out(scripts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    (scripts / "third.py").write_text(GOOD.replace("CLAIMS", repr([{"claim": "no verdict"}])))
    assert run_all(scripts, ["first", "third"], "tiny", out) == 0
    assert "third/result.json is not as a benchmark writes it" in capfd.readouterr().err
    assert (out / "claims.md").read_text().count("| undecided |") == 1


def test_a_dry_run_is_passed_on_and_writes_nothing(scripts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert run_all(scripts, ["first"], "embedded", tmp_path / "out", dry_run=True) == 0
    assert "--dry-run" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()


def test_an_interrupt_ends_the_child_too(scripts: Path, tmp_path: Path):
    (scripts / "first.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from pathlib import Path; from run_all import run_all; "
        f"sys.exit(run_all(Path({str(scripts)!r}), ['first', 'third'], 'tiny', Path({str(tmp_path / 'out')!r})))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out, error = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "| first | was stopped |" in out and "third" not in out
    assert "the same command goes on" in error
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_every_script_is_there_and_has_the_same_face(capsys: pytest.CaptureFixture[str]):
    for name in SCRIPTS:
        text = (BENCHMARKS / f"{name}.py").read_text()
        assert text.startswith('"""') and "Hardware" in text.split('"""')[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "paper"], "invalid choice: 'paper'"),
        (["--only", "throughputs"], "invalid choice: 'throughputs'"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_place_that_cannot_be_written_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write to" in capsys.readouterr().err
