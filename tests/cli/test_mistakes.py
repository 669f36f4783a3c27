"""A user's mistake: exit code 2, one sentence on standard error, no traceback, nothing written and nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from memlaw_jax.version import __version__

from .conftest import Memlaw, Said, records

pytestmark = pytest.mark.usefixtures("quick_compiler")


def assert_told(said: Said, *words: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("memlaw: error: ") and "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) == 1, said.err
    for word in words:
        assert word in said.err, said.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: whatever a refused command writes would show up here."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("colour=red", ["colour", "allowed", "ranks"]),
        ("optim.speed=3", ["optim.speed", "allowed", "learning_rate"]),
        ("lora.rnak=3", ["lora.rnak", "allowed", "alpha"]),
        ("task.colour=red", ["colour", "allowed", "ratio"]),
        ("ranks=[1, -2]", ["ranks", "-2", "greater than or equal to 1"]),
        ("ranks=[0]", ["ranks", "0"]),
        ("ranks=[]", ["ranks"]),
        ("ranks=3", ["ranks", "3"]),
        ("ranks=[two]", ["ranks", "two"]),
        ("ranks=[1.5]", ["ranks", "1.5"]),
        ("ranks=[65]", ["65", "64", "mlp"]),
        ("lengths=[41]", ["41", "40"]),
        ("lengths=[0]", ["lengths", "0"]),
        ("task={kind: long_context, tokens: 400}", ["lengths"]),
        ("seeds=[-1]", ["seeds", "-1"]),
        ("methods=[memorise]", ["memorise", "sft"]),
        ("learning_rates=[0]", ["learning_rates", "0"]),
        ("optim.learning_rate=-1", ["learning_rate", "-1"]),
        ("optim.learning_rate=.inf", ["learning_rate", "inf"]),
        ("optim.epochs=3", ["steps", "epochs"]),
        ("optim.schedule=cosine", ["schedule", "cosine", "linear"]),
        ("optim=fast", ["optim", "fast"]),
        ("lora.targets=[q_porj]", ["q_porj", "q_proj"]),
        ("lora.layers=[9]", ["9", "3"]),
        ("dtype=float8", ["float8", "bfloat16"]),
        ("task.kind=poems", ["poems", "phonebook"]),
        ("task=poems", ["task", "poems"]),
        ("task={kind: records, path: nowhere.jsonl}", ["nowhere.jsonl"]),
        ("lanes=0", ["lanes", "0"]),
        ("steps_per_dispatch=0", ["steps_per_dispatch", "0"]),
        ("model=/no/such/model", ["/no/such/model"]),
        ("ranks", ["ranks", "key=value"]),
        ("=3", ["=3", "key=value"]),
        ("model.depth=3", ["model.depth=3", "model"]),
        ("ranks=[1", ["ranks=[1", "YAML"]),
    ],
)
def test_an_impossible_value_is_told_with_its_key(
    config: Path, place: Path, memlaw: Memlaw, override: str, words: list[str]
) -> None:
    if override.startswith("task={kind: long_context"):  # longer than the model's 256 positions
        said = memlaw("sweep", config, override, "lengths=[300]", "--out", "out")
        words = ["300", "256"]
    else:
        said = memlaw("sweep", config, override, "--out", "out")
    assert_told(said, *words)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["ranks"]),
        ("- 1\n- 2\n", ["key: value"]),
        ("just words", ["key: value"]),
        ("ranks: [1, 2\ntask: {", ["YAML"]),
        ("ranks: [1]\n", ["task"]),
        ("task: {kind: long_context}\n", ["ranks"]),
        ("task: {kind: long_context}\nranks: [1]\n3: 4\n", ["3"]),
        ("task: {ratio: 1}\nranks: [1]\n", ["kind"]),
        ("ranks: [1]\ntask: {kind: long_context}\nranks: !!python/object/apply:os.system ['true']\n", ["YAML"]),
    ],
)
def test_a_bad_config_file_is_told(place: Path, tmp_path: Path, memlaw: Memlaw, text: str, words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    assert_told(memlaw("sweep", tmp_path / "bad.yaml", "--out", "out"), "bad.yaml", *words)
    assert list(place.iterdir()) == []


def test_a_config_that_cannot_be_read_is_told(place: Path, tmp_path: Path, memlaw: Memlaw) -> None:
    assert_told(memlaw("sweep", tmp_path / "none.yaml"), "none.yaml")
    assert_told(memlaw("sweep", tmp_path), str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00ranks")
    assert_told(memlaw("sweep", tmp_path / "binary.yaml"), "binary.yaml")
    assert list(place.iterdir()) == []


def cut_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def cut_config(model: Path) -> None:
    path = model / "config.json"
    path.write_text(path.read_text()[:100])


def empty_config(model: Path) -> None:
    (model / "config.json").write_text("{}")


def list_config(model: Path) -> None:
    (model / "config.json").write_text("[]")


def no_tokenizer(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()


def cut_tokenizer(model: Path) -> None:
    path = model / "tokenizer.json"
    path.write_text(path.read_text()[:1000])


def empty(model: Path) -> None:
    for path in model.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "damage",
    [cut_weights, no_weights, no_config, cut_config, empty_config, list_config, no_tokenizer, cut_tokenizer, empty],
)
def test_a_damaged_model_directory_is_told(
    config: Path, tiny_dir: Path, place: Path, tmp_path: Path, memlaw: Memlaw, damage: Callable[[Path], None]
) -> None:
    model = Path(shutil.copytree(tiny_dir, tmp_path / "damaged"))
    damage(model)
    said = memlaw("sweep", config, f"model={model}", "--out", "out")
    assert_told(said, "config.json" if "config" in damage.__name__ else str(model))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no records"]),
        ("\n\n", ["no records"]),
        ('{"query": "a", "target": "b"}\n{"query": "c", "tar', ["line 2", "cut short"]),
        ('{"query": "a"}\n', ["line 1", "target"]),
        ('{"query": "a", "target": "b"}\n{"query": "a", "target": "c"}\n', ["line 2", "line 1"]),
        ('{"query": "a", "target": ""}\n', ["line 1", "empty"]),
        ('{"query": "a", "target": "' + "b" * 300 + '"}\n', ["line 1", "256"]),
    ],
)
@pytest.mark.parametrize("kind", ["records", "phonebook"])
def test_bad_data_is_told_with_its_line(
    config: Path, place: Path, tmp_path: Path, memlaw: Memlaw, text: str, words: list[str], kind: str
) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    task = f"task={{kind: {kind}, path: {tmp_path / 'data.jsonl'}}}"
    assert_told(memlaw("sweep", config, task, "lengths=[null]", "--out", "out"), "data.jsonl", *words)
    assert list(place.iterdir()) == []


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("lora.init=peft", "lora"),
        ("lora.alpha=4", "lora"),
        ("optim.steps=31", "optim"),
        ("optim.clip=2.0", "optim"),
        ("task.seed=1", "dataset"),
        ("dtype=bfloat16", "dtype"),
        ("model=embedded", "model"),
    ],
)
def test_the_folder_of_another_sweep_is_refused_and_kept(
    config: Path, copy: Path, memlaw: Memlaw, override: str, key: str
) -> None:
    before = contents(copy)
    assert_told(memlaw("sweep", config, override, "--out", copy), str(copy), f"its {key} is")
    assert contents(copy) == before


def test_a_folder_in_use_is_refused(config: Path, copy: Path, memlaw: Memlaw) -> None:
    import fcntl

    before = contents(copy)
    with open(copy / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert_told(memlaw("sweep", config, "--out", copy), str(copy), "another process")
    assert contents(copy) == before


def test_a_folder_that_cannot_be_written_is_told(config: Path, tmp_path: Path, memlaw: Memlaw) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_told(memlaw("sweep", config, "--out", out), str(out))
    assert (tmp_path / "file").read_text() == "mine"


def test_fit_tells_what_it_cannot_fit(
    copy: Path, tmp_path: Path, memlaw: Memlaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert_told(memlaw("fit", tmp_path / "empty"), "results.jsonl")
    assert_told(memlaw("fit", tmp_path / "nowhere"), "nowhere")
    assert list((tmp_path / "empty").iterdir()) == []
    lines = (copy / "results.jsonl").read_text().splitlines(keepends=True)
    (copy / "results.jsonl").write_text("".join(lines[:4]))
    assert_told(memlaw("fit", copy), "only 4", "5")
    recalled = [json.dumps(json.loads(line) | {"loss_final": 0.1}) + "\n" for line in lines]
    (copy / "results.jsonl").write_text("".join(recalled))
    assert_told(memlaw("fit", copy), "5")
    assert not (copy / "law").exists()
    (copy / "results.jsonl").write_text("".join(lines))
    (tmp_path / "file").write_text("mine")
    assert_told(memlaw("fit", copy, "--out", tmp_path / "file" / "below"), "below")
    assert len(records(copy)) == 6


@pytest.mark.parametrize(
    "arguments", [[], ["swep"], ["sweep"], ["fit"], ["sweep", "--colour"], ["fit", "x", "--filter", "none"]]
)
def test_a_mistyped_command_is_told_with_the_way_to_help(memlaw: Memlaw, arguments: list[str]) -> None:
    assert_told(memlaw(*arguments), "--help")


@pytest.mark.parametrize("command", ["demo", "sweep", "fit", "compare", "export"])
def test_every_command_has_help_with_an_example(memlaw: Memlaw, command: str) -> None:
    said = memlaw(command, "--help")
    assert said.code == 0 and said.err == ""
    assert "example" in said.out and f"  memlaw {command}" in said.out
    for option in ("--out", "--json"):
        assert option in said.out


def test_help_lists_the_commands(memlaw: Memlaw) -> None:
    said = memlaw("--help")
    assert said.code == 0 and all(command in said.out for command in ("demo", "sweep", "fit", "compare", "export"))
    assert memlaw("--version").out == f"memlaw {__version__}\n"


def test_the_installed_command_tells_a_mistake_without_loading_jax(
    python: str, child_environment: dict[str, str], tmp_path: Path
) -> None:
    """The real process: its exit code and its streams, and an answer in no time."""
    script = Path(python).with_name("memlaw")
    command = [str(script)] if script.exists() else [python, "-m", "memlaw_jax.cli.main"]
    child = subprocess.run(
        [*command, "fit", str(tmp_path)], env=child_environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert_told(Said(child.returncode, child.stdout, child.stderr), "results.jsonl")
    loaded = "import sys; from memlaw_jax.cli.main import parser; parser(); print('jax' in sys.modules)"
    child = subprocess.run([python, "-c", loaded], env=child_environment, capture_output=True, text=True)
    assert child.stdout == "False\n", child.stderr
