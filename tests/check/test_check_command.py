"""`memlaw check`: exit, words and JSON; and with libtpu the real compiler."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from memlaw_jax.cli import check
from memlaw_jax.errors import UserError

SWEEP = {"model": "embedded", "task": {"kind": "long_context"}, "lengths": [160], "ranks": [1, 2, 4, 8]}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(**changed: Any) -> str:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(SWEEP | changed))
        return str(path)

    return write


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    check.arguments(parser)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def test_what_fits_is_returned(written: Any, capsys: pytest.CaptureFixture[str]):
    path = written(hardware="h100-8")
    result, words = check.run(parsed(path))
    assert result["fits"] and result["config"] == path and result["hardware"] == "h100-8"
    assert "Verdict: fits." in words
    assert json.loads(json.dumps(result)) == result
    assert "reckoning" in capsys.readouterr().err


def test_what_does_not_fit_is_shown_and_refused(written: Any, capsys: pytest.CaptureFixture[str]):
    path = written(model="Qwen/Qwen3-8B", dtype="float32")
    words = (path, "hardware=h100-1", "lengths=[10000]", "lanes=4", "remat=none", "--json")
    with pytest.raises(UserError, match=r"sweep\.yaml does not fit h100-1: a step of 4 lanes needs .*--fix"):
        check.run(parsed(*words))
    assert not json.loads(capsys.readouterr().out)["fits"]
    with pytest.raises(UserError, match=r"stay free; lanes=\d fits\.$"):
        check.run(parsed(*words[:-1], "dtype=bfloat16", "remat=dots", "--json", "--fix"))


def compiled(python: str, environment: dict[str, str], *words: str) -> tuple[int, dict[str, Any], str]:
    """The command in a process of its own, which libtpu wants to itself."""
    code = (
        "import argparse, json, sys\n"
        "from memlaw_jax.cli import check\n"
        "from memlaw_jax.errors import UserError\n"
        "parser = argparse.ArgumentParser()\n"
        "check.arguments(parser)\n"
        "parser.add_argument('--json', action='store_true')\n"
        "try:\n"
        "    print(json.dumps(check.run(parser.parse_args())[0]))\n"
        "except UserError as error:\n"
        "    sys.exit(str(error))\n"
    )
    # Kernels multiply as they like, and compile for speed: not as `child_environment` asks of a CPU.
    kept = {name: value for name, value in environment.items() if "PRECISION" not in name and "OPTIMIZ" not in name}
    done = subprocess.run([python, "-c", code, *words, "--json"], env=kept, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
def test_libtpu_compiles_the_step_and_finds_no_collective(written: Any, child_environment: dict[str, str], python: str):
    pytest.importorskip("libtpu")
    code, told, _ = compiled(python, child_environment, written(hardware="v5e-8", lanes=8, seeds=[0, 1]))
    assert code == 0 and told["compiled"] and told["fits"] and told["collectives"] == []
    assert told["step"]["lanes"] == 8 and told["step"]["kernels"] >= 2
    memory = told["memory_a_chip"]
    assert memory["temporaries"] > memory["adapters"] > 0 and memory["total"] < 2**30


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh, along",
    [({"fsdp": 4}, {("fsdp",)}), ({"tensor": 2}, {("tensor",)})],
)
def test_collectives_run_along_the_axes_that_are_split(
    mesh: dict[str, int], along: set[tuple[str, ...]], written: Any, child_environment: dict[str, str], python: str
):
    pytest.importorskip("libtpu")
    path = written(hardware="v5e-8", lanes=8, seeds=[0, 1], mesh={"ici": mesh})
    code, told, _ = compiled(python, child_environment, path)
    assert code == 0 and {tuple(one["axes"]) for one in told["collectives"]} == along
    assert all(one["count"] > 0 and one["bytes"] > 0 for one in told["collectives"])


@pytest.mark.slow
def test_libtpu_refuses_what_is_too_large(written: Any, child_environment: dict[str, str], python: str):
    pytest.importorskip("libtpu")
    path = written(
        model="Qwen/Qwen3-8B", dtype="float32", hardware="v5e-1", lengths=[50], lanes=64, seeds=list(range(16))
    )
    code, told, error = compiled(python, child_environment, path)
    assert code != 0 and not told["fits"] and told["collectives"] is None
    assert told["memory_a_chip"]["total"] > told["memory_a_chip"]["usable"]
    assert "a step of 64 lanes needs" in error and "15.75 GiB" in error
