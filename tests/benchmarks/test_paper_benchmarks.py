"""The paper's benchmarks, each from its start to its table at a tiny scale, and the grids of the paper's own scale."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from common.command import Benchmark
from common.given import TEXT, TPU_CONFIGS
from common.numbers import paper

from tests.models.tiny import CASES, write

SCRIPTS = (
    "law_long_context",
    "law_phonebook",
    "memft_long_context",
    "memft_phonebook",
    "phase_transition",
    "linear_rule",
    "exact_scenarios",
)
PAPER = ("--scale", "paper", "--model", "Qwen/Qwen3-8B", "--hardware", "v5e-16")
HARDWARE = sorted({path.name.split("_")[0] for path in TPU_CONFIGS.glob("*8b*.yaml")})


def benchmark(name: str) -> Benchmark:
    made: Benchmark = importlib.import_module(name).BENCHMARK
    return made


def parts_of(name: str, *arguments: str) -> list[Any]:
    from common.given import Given

    from memlaw_jax.cli.main import parse

    made = benchmark(name)
    return list(made.parts(Given(parse(made.parser(), arguments), name)))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each of the paper's families, too small to remember anything."""
    place = tmp_path_factory.mktemp("checkpoints")
    cases = {"qwen": "qwen3", "llama": "llama3-new-schema"}
    return {
        family: write(place / family, case, raw=CASES[case] | {"max_position_embeddings": 512})
        for family, case in cases.items()
    }


def small_model(name: str, checkpoints: dict[str, Path]) -> list[str]:
    """Overrides that put a checkpoint that compiles quickly in the place of the embedded base."""
    text = [f"task.text={TEXT}"] if name == "law_long_context" else []
    return [f"model={checkpoints['qwen']}", "task.system=null", *text]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_from_start_to_table(
    name: str, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / name
    assert benchmark(name).main(["--scale", "tiny", "--out", str(out), *small_model(name, checkpoints)]) == 0
    said = capsys.readouterr().out
    table, found = (out / "table.md").read_text(), json.loads((out / "result.json").read_text())
    assert "| paper | ours, scale tiny |" in said and "| paper | ours, scale tiny |" in table
    assert "says nothing about the paper" in table and found["claims"] == []
    assert found["benchmark"] == name and found["scale"] == "tiny" and found["versions"]["jax"]
    ours = [row for row in found["rows"] if row["ours"] and row["what"] not in ("model", "device")]
    assert len(ours) > 4
    assert list(out.glob("**/*.png")), "no figure was drawn"
    records = (path for path in out.glob("**/results.jsonl") if path.stat().st_size)
    assert sum(len(path.read_text().splitlines()) for path in records) > 0


def test_the_same_command_trains_nothing_again(checkpoints: dict[str, Path], tmp_path: Path):
    out = tmp_path / "law"
    arguments = ["--scale", "tiny", "--out", str(out), *small_model("law_phonebook", checkpoints)]
    assert benchmark("law_phonebook").main(arguments) == 0
    records = out / "book" / "results.jsonl"
    before, table = records.read_bytes(), (out / "table.md").read_text()
    assert benchmark("law_phonebook").main(arguments) == 0
    assert records.read_bytes() == before
    assert benchmark("law_phonebook").main([*arguments, "--report-only"]) == 0
    assert records.read_bytes() == before and (out / "table.md").read_text().splitlines()[2:] == table.splitlines()[2:]
    grid = [(rank, length) for rank in (1, 2, 4, 8) for length in (100, 200, 400)]
    lines = [f"{rank},{length},9.0,{9.0 - 20 * rank**0.5 * length**-0.5}" for rank, length in grid]
    torch = tmp_path / "torch.csv"
    torch.write_text("\n".join(["rank,length,loss_initial,loss_final", *lines]) + "\n")
    assert benchmark("law_phonebook").main([*arguments, "--report-only", "--pytorch", str(torch)]) == 0
    rows = {row["what"]: row["pytorch"] for row in json.loads((out / "result.json").read_text())["rows"]}
    assert rows["R²"] == "1" and rows["α"].startswith("0.5 ")
    assert "PyTorch run" in (out / "table.md").read_text() and "PyTorch run" not in table


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_papers_own_grid(name: str, family: str, checkpoints: dict[str, Path]):
    for hardware in HARDWARE:
        made = parts_of(name, "--scale", "paper", "--model", str(checkpoints[family]), "--hardware", hardware)
        assert made and len({part.folder for part in made}) == len(made)
        for part in made:
            assert part.config.protocol == "paper" and part.config.seeds == (paper()["protocol"]["seed"],)
            assert part.config.hardware == hardware and part.config.optim.learning_rate == 0.01
            assert part.config.lora.dropout == 0.1 and part.config.dtype == "bfloat16"


def test_the_papers_grid_has_the_papers_numbers(checkpoints: dict[str, Path]):
    said = paper()["protocol"]
    for family, path in checkpoints.items():
        given = ["--scale", "paper", "--model", str(path), "--hardware", "v5e-16"]
        long = parts_of("law_long_context", *given)
        assert [part.config.made_task().ratio for part in long] == said["long_context"]["ratios"]
        for part in long:
            assert list(part.config.ranks) == said["long_context"]["ranks"]
            assert list(part.config.lengths) == said["long_context"]["lengths"]
            assert part.config.optim.steps == said["long_context"]["steps"]
        book = parts_of("law_phonebook", *given)
        lengths = [length for part in book for length in part.config.lengths]
        assert lengths == said["phonebook"]["lengths"]
        for part in book:
            assert list(part.config.ranks) == said["phonebook"]["ranks"]
            assert part.config.optim.epochs == said["phonebook"]["epochs"]
            sizes = {step["size"] for step in said["phonebook"]["batch_size"][family]}
            assert part.config.optim.batch_size in sizes


def test_the_papers_scale_runs_from_start_to_table(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    small = ["lengths=[8,16,24]", "ranks=[1,2,4]", "optim.epochs=2", "dtype=float32", "task.system=null"]
    given = ["--scale", "paper", "--model", str(checkpoints["qwen"]), "--hardware", "v5e-16", *small]
    assert benchmark("law_phonebook").main([*given, "--out", str(tmp_path / "paper")]) == 0
    assert "| Qwen3-8B |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "paper"], "--scale paper needs --model"),
        (["--scale", "paper", "--model", "Qwen/Qwen3-8B"], "--scale paper needs --hardware"),
        (["--scale", "paper", "--model", "Qwen/Qwen3-8B", "--hardware", "v9-1"], "--hardware v9-1 has no file"),
        (["--scale", "paper", "--model", "embedded/none", "--hardware", "v5e-16"], "embedded/none"),
        (["--model", "Qwen/Qwen3-8B"], "goes with --scale paper"),
        (["--report-only", "--out", "nothing/here"], "without --report-only first"),
        (["ranks=none"], "ranks"),
        ([*PAPER, "lengths=[null]"], "names no length"),
        (["--pytorch", "nothing.csv", "--report-only", "--out", "nothing/here"], "nothing"),
        (["--wrong"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    try:
        code = benchmark("law_phonebook").main(arguments)
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err
    assert code == 2 and said in told and "Traceback" not in told


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "dry"
    assert benchmark("law_phonebook").main(["--scale", "tiny", "--dry-run", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "9 cells" in said and "PFLOP" in said and "predicted, not measured" in said
    assert not out.exists()


def test_equal_sweeps_are_predicted_once(capsys: pytest.CaptureFixture[str]):
    assert benchmark("memft_long_context").main(["--dry-run", "lengths=[12]", "ranks=[1]", "optim.steps=5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("seed0, seed1, seed2, each:") and said.count("tokens ℓ") == 1
    assert "All 3 sweeps: 9 cells" in said


def test_a_ratio_is_not_overridden(capsys: pytest.CaptureFixture[str]):
    assert benchmark("law_long_context").main(["--dry-run", "task.ratio=0.5"]) == 2
    assert "choose with --ratios" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from common.command import _tell
    from common.given import Given

    from memlaw_jax.cli.main import parse

    made = benchmark("law_phonebook")
    arguments = ["--scale", "tiny", "--out", str(tmp_path)]
    _tell(Given(parse(made.parser(), arguments), "law_phonebook"))
    assert made.main([*arguments, "--report-only"]) == 2
    assert "book" in capsys.readouterr().err


def test_the_papers_numbers_belong_together():
    known = paper()
    for task in ("long_context", "phonebook"):
        for table in known["table_2"][task].values():
            assert {len(table[name]) for name in ("ranks", "sft", "memft-ot", "memft-sw")} == {len(table["ranks"])}
    third = known["table_3"]
    for method in ("sft", "memft"):
        assert len(third[method]["memory"]) == len(third[method]["generalisation"]) == len(third["ranks"])
    assert {row["model"] for row in known["table_1"]["rows"]} == {"qwen", "llama"}


def test_a_verdict_is_by_the_interval():
    from common.numbers import mean_interval, number, percent
    from common.table import verdict

    assert [verdict(*bounds, 0.98) for bounds in ((0.981, 1), (0.9, 0.97), (0.9, 1))] == [
        "holds",
        "does not hold",
        "undecided",
    ]
    mean, half = mean_interval([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2) and half == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert mean_interval([0.5]) == (0.5, None) and mean_interval([1.0, 1.0, 1.0]) == (1.0, None)
    assert number(0.98765, (0.9, 1.0)) == "0.988 [0.9, 1]" and number(None) == "" and percent(0.5, 0.01) == "50.0 ± 1.0"
