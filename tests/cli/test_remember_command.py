"""`memlaw remember`: the user's records in, an adapter that recalls them out; stopped, it goes on where it was."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import memlaw_jax as ml
from memlaw_jax.models import Adapter, Base, LoraConfig, init_adapter
from memlaw_jax.training import OptimConfig
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.logging import Log
from memlaw_jax.training.remember import Remembered, _doubling, advice, remember, widest_rank

from .conftest import Memlaw, Said, compare, records
from .test_fit_command import one_object
from .test_mistakes import assert_told, contents, place  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 records of 12 random characters, which rank 8 holds most of and rank 16 all of, in 300 steps."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    lines = [{"query": f"key {i}:", "target": "".join(rng.choice(letters) for _ in range(12))} for i in range(4)]
    path = tmp_path_factory.mktemp("data") / "keys.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def law(base: Base, data: Path, fitting: float) -> ml.Law:
    """A law that takes the whole loss of these 48 tokens away at the rank `fitting`, and not below."""
    loss = ml.recall(base, None, ml.RecordsTask(path=data).samples(base.tokenizer, None)).loss
    grid = [(rank, length) for rank in (1, 2, 4) for length in (4800, 9600, 19200)]
    frame = pd.DataFrame(grid, columns=["rank", "length"]).assign(loss_initial=loss)
    delta = loss * (frame["rank"] / fitting) ** 0.5 * (frame["length"] / 48) ** -0.3
    return ml.fit_law(frame.assign(loss_final=loss - delta), bootstrap=0)


@pytest.fixture(scope="session")
def kept(
    base: Base, data: Path, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Memlaw], tuple[Path, list[Any], Said]]:
    """The folder of an adapter that recalls everything, its command, and what that said; run once."""
    folder, said = tmp_path_factory.mktemp("kept") / "a folder", []
    law(base, data, 7.0).save(folder.parent / "law")
    command: list[Any] = ["remember", data, "--model", tiny_dir, "--steps", 300, "--out", folder]
    command += ["--law", folder.parent / "law" / "law.json"]

    def run(memlaw: Memlaw) -> tuple[Path, list[Any], Said]:
        if not said:
            said.append(memlaw(*command))
        return folder, command, said[0]

    return run


Kept = Callable[[Memlaw], tuple[Path, list[Any], Said]]


def test_the_rank_is_doubled_from_where_the_law_says_until_all_is_recalled(
    base: Base, data: Path, kept: Kept, memlaw: Memlaw
) -> None:
    folder, _, said = kept(memlaw)
    assert said.code == 0, said.err
    below, last = records(folder)
    assert (below["rank"], last["rank"]) == (8, 16)
    assert below["exact_match"] < 1 == last["exact_match"] == last["fraction_above_half"]
    assert (below["stopped"], below["steps"]) == ("budget", 300)
    assert last["stopped"] == "recalled" and last["steps"] < 300 and last["p_min"] > 0.5
    adapter = ml.load_adapter(folder / "adapter")
    assert adapter.lora.rank == 16 and adapter.model == base.name
    report = ml.recall(base, adapter, ml.RecordsTask(path=data).samples(base.tokenizer, None))
    assert report.exact_match == 1.0 and report.p_min == pytest.approx(last["p_min"], abs=1e-4)


def test_the_words_say_what_was_recalled_by_what_and_where_it_is(data: Path, kept: Kept, memlaw: Memlaw) -> None:
    folder, _, said = kept(memlaw)
    steps = records(folder)[1]["steps"]
    for part in (
        "4 of 4 records (48 tokens) are recalled word for word by rank 16 (2048 parameters)",
        f"after {steps} steps of 300, when all its tokens were above ½",
        "100.0% of the tokens are above ½", "tried: rank 8: ", ", rank 16: 100%.",
        f"Check:   memlaw recall '{folder}/adapter' --data {data}\n",  # as a shell takes it, with its blank
    ):  # fmt: skip
        assert part in said.out, (part, said.out)
    assert "Not recalled" not in said.out and "What would help" not in said.out
    for path in ("adapter", "results.jsonl", "tensorboard"):
        assert str(folder / path) in said.out and (folder / path).exists()
    assert not (folder / "checkpoints").exists()  # it took seconds
    moves = said.err.split("\r")
    assert any("rank 8: " in move and "of tokens above ½" in move for move in moves)
    assert any("rank 16: " in move and "100% recalled" in move and "left" in move for move in moves)
    assert any(move.startswith("verifying") for move in moves) and "warning" not in said.err


def test_the_same_command_again_trains_nothing_and_json_is_one_object(
    kept: Kept, memlaw: Memlaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a finished rank was trained again")

    folder, command, _ = kept(memlaw)
    monkeypatch.setattr(sys.modules["memlaw_jax.training.grid"], "train_cells", fail)
    said = memlaw(*command, "--json")
    assert said.code == 0 and said.err == "", said.err
    found = one_object(said.out)
    last = records(folder)[1]
    assert found["rank"] == 16 and found["ranks_tried"] == [8, 16] and found["stopped"] == "recalled"
    assert (found["records"], found["answer_tokens"], found["exact_match"]) == (4, 48, 1.0)
    assert found["misses"] == [] == found["advice"] and found["steps"] == last["steps"]
    assert found["adapter"] == str(folder / "adapter") and found["token_accuracy_free"] == 1.0
    assert found["p_min"] == pytest.approx(last["p_min"], abs=1e-4)


def test_a_text_that_is_too_much_ends_with_the_misses_and_advice(
    tiny_dir: Path, memlaw: Memlaw, tmp_path: Path
) -> None:
    """At the model's width, and after one step, which shows no trend."""
    text = "A text is cut into parts, and this one has one. No adapter learns it in one step, however wide it is."
    (tmp_path / "page.txt").write_text(text)
    command = ["remember", tmp_path / "page.txt", "--model", tiny_dir, "--rank", 64, "--steps", 1]
    said = memlaw(*command, "--out", tmp_path / "out")
    assert said.code == 0 and "warning" not in said.err, said.err
    assert f"0 of 1 records ({len(text)} tokens)" in said.out and "after 1 steps, all that --steps allows" in said.out
    assert "Not recalled:\n" in said.out and "page.txt, part 1 of 1:" in said.out
    hints = said.out.partition("What would help:\n")[2].partition("\n\n")[0].splitlines()
    assert hints[0] == "  - more --layers or --targets: rank 64 is as wide as mlp can use"
    assert len(hints) == 2 and hints[1].startswith("  - shorter records")
    assert "Records recalled by each rank" not in said.out


def test_a_training_that_diverges_is_told_in_words_and_in_json(
    data: Path, tiny_dir: Path, kept: Kept, memlaw: Memlaw, tmp_path: Path
) -> None:
    kept(memlaw)  # the same program at another rate
    command = ["remember", data, "--model", tiny_dir, "--rank", 16, "--steps", 300, "--learning-rate", "1e38"]
    said = memlaw(*command, "--out", tmp_path / "out")
    assert said.code == 0 and "after 50 steps of 300, when the training diverged;" in said.out
    assert "nan" not in said.out and "What would help:\n  - a smaller --learning-rate than 1e+38" in said.out
    found = one_object(memlaw(*command, "--out", tmp_path / "out", "--json").out)
    assert found["stopped"] == "diverged" and found["loss"] is None is found["misses"][0]["probability"]
    assert found["misses"][0]["tokens_below_half"] == 12


# How the ranks are tried, with a training that takes no time.


def test_without_a_law_the_rank_begins_at_8_parameters_a_token_and_ends_at_the_width(base: Base) -> None:
    """`mlp` has 128 parameters a rank and is 64 wide, k_proj has 4 · 112 and is 48 wide."""
    few, many = ml.RecordsTask(records=[("0", "x" * 16)]), ml.RecordsTask(records=[("0", "x" * 100)])
    beyond = ml.RecordsTask(records=[(f"{i}", "x" * 100) for i in range(90)])
    mlp, keys = LoraConfig(), LoraConfig(targets=("k_proj", "q_proj"))
    assert (widest_rank(base.config, mlp), widest_rank(base.config, keys)) == (64, 48)
    assert list(_doubling(base, few, mlp, None)) == [1, 2, 4, 8, 16, 32, 64]
    assert list(_doubling(base, many, mlp, None)) == [8, 16, 32, 64]
    assert list(_doubling(base, beyond, mlp, None)) == [64]
    assert list(_doubling(base, few, keys, None)) == [1, 2, 4, 8, 16, 32, 48]


@pytest.mark.parametrize(("fitting", "first"), [(0.5, 1), (1.1, 2), (7.0, 8), (33.0, 64), (500.0, 64)])
def test_with_a_law_the_rank_begins_where_it_takes_the_whole_loss_away(
    base: Base, data: Path, fitting: float, first: int
) -> None:
    ranks = list(_doubling(base, ml.RecordsTask(path=data), LoraConfig(), law(base, data, fitting)))
    assert ranks[0] == first and ranks[-1] == 64


class Fake:
    """`run_sweep` that has every rank end as it is told, and keeps adapters as the real one does."""

    def __init__(self, base: Base, ends: dict[int, tuple[float, float]]):
        self.base, self.ends, self.ranks = base, ends, []  # type: ignore[var-annotated]

    def __call__(self, base: Base, config: Any, out: Any, watch: Any, frozen: Any) -> Any:
        (rank,) = config.ranks
        assert config.stop == "certain" and config.adapters
        self.ranks.append(rank)
        folder = Path(out)
        lora = dataclasses.replace(config.lora, rank=rank)
        weights = init_adapter(base.config, lora, jax.random.key(0))
        layers = lora.adapted_layers(base.config)
        adapter = Adapter(lora=lora, layers=layers, weights=weights, model="", model_fingerprint="")
        adapter.save(folder / "adapters" / f"cell{rank}")
        (folder / "tokens").mkdir(exist_ok=True)
        np.savez(folder / "tokens" / f"cell{rank}.npz", loss_history=np.ones(3))
        exact, accuracy = self.ends[rank]
        record = {"cell_id": f"cell{rank}", "rank": rank, "exact_match": exact, "token_accuracy": accuracy}
        return type("Results", (), {"records": [record]})


@pytest.mark.parametrize(
    ("ends", "tried", "best"),
    [
        ({1: (0, 0.1), 2: (0.5, 0.8), 4: (1, 1), 8: (1, 1)}, [1, 2, 4], 4),
        ({1: (1, 1)}, [1], 1),
        # nothing recalls all: the most records, then the most tokens, then the smaller
        ({r: (0.5 if r in (8, 16) else 0.25, 0.9) for r in (1, 2, 4, 8, 16, 32, 64)}, [1, 2, 4, 8, 16, 32, 64], 8),
        ({r: (0, r / 100 if r < 64 else 0) for r in (1, 2, 4, 8, 16, 32, 64)}, [1, 2, 4, 8, 16, 32, 64], 32),
    ],
)
def test_the_smallest_that_recalls_all_is_kept_or_else_the_best(
    base: Base, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Any, tried: list[int], best: int
) -> None:
    fake = Fake(base, ends)
    monkeypatch.setattr(sys.modules["memlaw_jax.training.remember"], "run_sweep", fake)
    monkeypatch.setattr(sys.modules["memlaw_jax.training.remember"], "PARAMETERS_A_TOKEN", 1)
    task, optim = ml.RecordsTask(path=data), OptimConfig(steps=1)
    found = remember(base, task, tmp_path, lora=LoraConfig(), optim=optim)
    assert fake.ranks == tried == [record["rank"] for record in found.tried]
    assert found.record["rank"] == best == ml.load_adapter(tmp_path / "adapter").lora.rank


# What would help.


def ended(losses: Any, **record: Any) -> Remembered:
    usual = {
        "rank": 4, "exact_match": 0.5, "fraction_above_half": 0.6, "length": 200, "effective_parameters": 512,
        "samples": 10, "stopped": "budget", "method": "sft", "steps": len(losses), "targets": ["mlp"],
        "learning_rate": 0.01,
    }  # fmt: skip
    whole = usual | record
    return Remembered(
        adapter=None, directory=Path(), record=whole, tried=record.get("tried", [whole]), loss_history=np.array(losses)
    )  # type: ignore[arg-type]


FLAT, FALLING = np.full(50, 2.0), np.concatenate([np.full(40, 2.0), np.full(10, 1.0)])


@pytest.mark.parametrize(
    ("found", "hints"),
    [
        (ended(FALLING, exact_match=1.0), []),
        (ended(FALLING, stopped="diverged", learning_rate=0.5), ["a smaller --learning-rate than 0.5"]),
        (
            ended(FALLING),
            ["more --steps than 50: the loss was still falling, from 2 nats to 1 over the last two fifths",
             "a higher --rank than 4, which has 2.6 parameters an answer token"],
        ),
        (ended(FLAT), ["a higher --rank than 4"]),
        (ended([2.0]), ["a higher --rank than 4"]),
        (
            ended(FLAT, fraction_above_half=0.985),
            ["--method memft-ot: it trains on nothing but tokens that are below ½, here 3 of 200", "a higher --rank"],
        ),
        (ended(FLAT, fraction_above_half=0.985, method="memft-ot"), ["a higher --rank than 4"]),
        (ended(FLAT, rank=40), ["a higher --rank than 40"]),
        (ended(FLAT, rank=64, targets=["q_proj", "k_proj"]),
         ["more --layers or --targets: rank 64 is as wide as q_proj and k_proj can use"]),
        # rank 8 recalled most, but higher ones were tried too
        (ended(FLAT, rank=8, tried=[{"rank": 8}, {"rank": 64}]), ["more --layers or --targets: rank 64"]),
        (ended(FLAT, rank=8, effective_parameters=1000, tried=[{"rank": 8}, {"rank": 16}]),
         ["a higher --rank than 16, which has 10 parameters an answer token"]),
        (ended(FLAT, samples=1), ["a higher --rank", "shorter records"]),
    ],
)  # fmt: skip
def test_advice_names_what_is_likeliest_with_its_evidence(found: Remembered, hints: list[str]) -> None:
    said = advice(found, 64)
    assert len(said) == len(hints), said
    assert all(line.startswith(hint) for line, hint in zip(said, hints, strict=True)), said


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rank", "two"], ["--rank", "two", "auto"]),
        (["--rank", "0"], ["--rank", "0", "1 or more"]),
        (["--rank", "-3"], ["-3"]),
        (["--rank", "65"], ["65", "64", "mlp"]),
        (["--method", "memft"], ["memft", "memft-ot"]),
        (["--layers", "two"], ["--layers", "two", "4 or 2,3"]),
        (["--layers", ""], ["--layers", "4 or 2,3"]),
        (["--layers", "9"], ["9", "0 to 3"]),
        (["--targets", "q_porj"], ["q_porj", "q_proj"]),
        (["--targets", "q_proj,q_proj"], ["q_proj", "twice"]),
        (["--targets", "mlp,q_proj"], ["mlp", "layers"]),
        (["--steps", "0"], ["steps", "0"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--batch-size", "0"], ["batch_size", "0"]),
        (["--learning-rate", "0"], ["learning_rate", "0"]),
        (["--learning-rate", "nan"], ["learning_rate", "nan"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--dtype", "float8"], ["float8", "bfloat16"]),
        (["--model", "/no/such/model"], ["/no/such/model"]),
        (["--law", "nowhere.json"], ["nowhere.json", "memlaw fit"]),
        (["--law", "garbage.json"], ["garbage.json", "JSON"]),
        (["--law", "list.json"], ["no law", "list"]),
        (["--law", "other.json"], ["no law of schema 2", "1"]),
        (["--law", "half.json"], ["incomplete", "alpha"]),
        (["--law", "binary.json"], ["binary.json"]),
    ],
)
@pytest.mark.usefixtures("place")
def test_an_impossible_value_is_one_sentence(
    base: Base, data: Path, tiny_dir: Path, memlaw: Memlaw, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    Path("garbage.json").write_text("{")
    Path("list.json").write_text("[]")
    Path("other.json").write_text('{"schema": 1}')
    half = law(base, data, 7.0).to_dict() if arguments[1] == "half.json" else {}
    half.pop("alpha", None)
    Path("half.json").write_text(json.dumps(half))
    Path("binary.json").write_bytes(b"\xff\xfe\x00")
    before = contents(Path())
    assert_told(memlaw("remember", data, "--model", tiny_dir, "--out", "out", *arguments), *words)
    assert contents(Path()) == before


@pytest.mark.usefixtures("place")
def test_missing_and_bad_data_is_one_sentence(tiny_dir: Path, memlaw: Memlaw) -> None:
    Path("empty.txt").write_text("\n")
    Path("bad.jsonl").write_text('{"query": "a"}\n')
    before = contents(Path())
    for name, words in (("nowhere.jsonl", ["no such file"]), ("empty.txt", ["no text"]), ("bad.jsonl", ["line 1"])):
        assert_told(memlaw("remember", name, "--model", tiny_dir, "--out", "out"), name, *words)
    assert_told(memlaw("remember", "bad.jsonl"), "--out")
    assert contents(Path()) == before


def test_the_folder_of_other_data_is_refused_and_kept(
    kept: Kept, tiny_dir: Path, memlaw: Memlaw, tmp_path: Path
) -> None:
    folder, _, _ = kept(memlaw)
    before = contents(folder)
    (tmp_path / "other.jsonl").write_text('{"query": "a", "target": "b"}\n')
    command = ["remember", tmp_path / "other.jsonl", "--model", tiny_dir, "--steps", 300, "--out", folder]
    assert_told(memlaw(*command), str(folder), "its dataset is")
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["remember", "recall"])
def test_help_has_an_example(memlaw: Memlaw, command: str) -> None:
    said = memlaw(command, "--help")
    assert said.code == 0 and said.err == ""
    assert f"  memlaw {command}" in said.out and "--json" in said.out
    assert not [line for line in said.out.splitlines() if len(line) > 120]


# Signals.


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each dispatch."""
    monkeypatch.setattr(
        sys.modules["memlaw_jax.training.sweep"], "Checkpoints", functools.partial(Checkpoints, every=0)
    )


class Spy:
    """The first step of every dispatch; a signal to this process when one begins at `stop`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.steps: list[int] = []
        self.stop, self.signal = -1, signal.SIGTERM
        stepped = Log.stepped

        def spy(log: Log, cell: Any, step: int, metrics: Any, work: int) -> None:
            stepped(log, cell, step, metrics, work)
            self.steps.append(step)
            if step == self.stop:
                os.kill(os.getpid(), self.signal)
                time.sleep(5)  # the handler runs before this ends

        monkeypatch.setattr(Log, "stepped", spy)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("number", "at", "code", "words"),
    [
        # the dispatch is brought to its end, with which the third would recall everything
        (signal.SIGTERM, 50, 0, "stopped by SIGTERM; 1 adapters in training are saved;"),
        (signal.SIGINT, 100, 130, "stopped. Nothing finished is lost;"),
    ],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_stopped_training_goes_on_where_it_was(
    data: Path, tiny_dir: Path, kept: Kept, memlaw: Memlaw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals, at: int, code: int, words: str,
) -> None:  # fmt: skip
    """Rank 16 as in `kept`, whose program is compiled already, stopped in its second or third dispatch."""
    folder, _, _ = kept(memlaw)
    spy = Spy(monkeypatch)
    spy.stop, spy.signal = at, number
    command = ["remember", data, "--model", tiny_dir, "--steps", 300, "--rank", 16, "--out", tmp_path / "out"]
    said = memlaw(*command)
    assert said.code == code and said.out == "" and "Traceback" not in said.err
    last = said.err.rstrip().splitlines()[-1]
    assert last == f"memlaw: {words} the same command goes on from there."
    assert spy.steps == list(range(0, at + 1, 50)) and list((tmp_path / "out" / "checkpoints").iterdir())
    spy.stop, before = -1, len(spy.steps)
    again = memlaw(*command)
    assert again.code == 0 and "4 of 4 records" in again.out, again.err
    assert spy.steps[before] in (50, 100), spy.steps  # and not 0
    assert not (tmp_path / "out" / "checkpoints").exists()
    compare(records(tmp_path / "out"), records(folder)[1:])


KILLED = """
import functools, importlib, sys
from memlaw_jax.cli.main import main
from memlaw_jax.training.checkpoint import Checkpoints
importlib.import_module("memlaw_jax.training.sweep").Checkpoints = functools.partial(Checkpoints, every=0)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_of_long_cells_goes_on_from_their_checkpoint(
    config: Path, tmp_path: Path, memlaw: Memlaw, python: str, child_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, spy = tmp_path / "killed", Spy(monkeypatch)
    command = ["sweep", config, "lengths=[12]", "ranks=[1,4]", "methods=[memft-sw]", "optim.steps=600", "--out"]
    child = subprocess.Popen(
        [python, "-c", KILLED, *map(str, command), str(out)], env=child_environment, stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + 120
    while not list(out.glob("checkpoints/[0-9]")):
        assert child.poll() is None and time.monotonic() < give_up, child.communicate()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    assert not (out / "results.jsonl").exists()

    resumed = memlaw(*command, out, "--json")
    assert resumed.code == 0 and resumed.err == "", resumed.err
    assert json.loads(resumed.out)["new"] == 2 and min(spy.steps) > 0
    assert not (out / "checkpoints").exists()
    spy.steps.clear()
    assert memlaw(*command, tmp_path / "whole", "--json").code == 0 and min(spy.steps) == 0
    compare(records(out), records(tmp_path / "whole"))
