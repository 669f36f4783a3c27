"""The PyTorch reference by itself: its data, its bypass, its command line, and our reading of what it writes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from .conftest import BENCHMARKS

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

if TYPE_CHECKING:
    from memlaw_jax.models import Base

pytestmark = pytest.mark.parity

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}~\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROWS = [{"id": i, "query": f"Name {i}:", "target": "60" * (1 + i % 3)} for i in range(5)]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("book") / "book.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def command(checkpoint: Callable[[str], Base], tmp_path: Path) -> Callable[..., int]:
    """`command(*arguments, out=…)`: the command line on a tiny model, 6 steps, float32."""
    from pytorch_reference.train import main

    torch.set_num_threads(1)

    def run(*arguments: Any, out: Path = tmp_path / "out", model: Any = None) -> int:
        model = model or checkpoint("qwen3").directory
        usual = ["--model", model, "--ranks", 2, "--steps", 6, "--dtype", "float32", "--device", "cpu", "--out", out]
        return main([str(argument) for argument in [*usual, *arguments]])

    return run


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("length", [None, 7])
def test_records_become_the_tokens_that_ours_become(
    chat: bool, length: int | None, book: Path, checkpoint: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
):
    from pytorch_reference import data

    from memlaw_jax.tasks import PhoneBook, pad

    base = checkpoint("qwen3")
    if chat:
        monkeypatch.setattr(base.tokenizer, "chat_template", CHAT)
    ours = pad(PhoneBook(path=book).samples(base.tokenizer, length), pad_id=base.pad_id, multiple=1)
    encoder = data.Encoder(base.tokenizer)
    theirs = data.pad(data.record_samples(encoder, data.read_records(book), length), base.pad_id)
    assert theirs.train_mask.sum() > theirs.answer_mask.sum()  # there is a suffix
    for name in data.Arrays.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))


def test_random_tokens_are_those_of_our_long_context(checkpoint: Callable[[str], Base]):
    from pytorch_reference import data

    from memlaw_jax.tasks import LongContext

    tokenizer = checkpoint("embedded").tokenizer
    ((prompt, answer, suffix),) = data.random_sample(data.Encoder(tokenizer), 50, seed=0)
    (ours,) = LongContext().samples(tokenizer, 50)
    assert (tuple(prompt), tuple(answer), tuple(suffix)) == (ours.prompt, ours.answer, ours.suffix)


@pytest.mark.parametrize(("samples", "batch"), [(7, 3), (6, 3), (4, 4), (1, 1)])
def test_the_order_is_ours(samples: int, batch: int):
    from pytorch_reference.protocol import order

    from memlaw_jax.training.order import Order

    ours = Order(seed=5, samples=samples, batch=batch).rows(0, 20)
    for mine, theirs in zip(ours, order(samples, batch, 20, seed=5), strict=True):
        mine = mine[mine >= 0]
        np.testing.assert_array_equal(np.sort(mine) if batch == samples else mine, theirs)


def test_a_batch_has_its_labels_where_its_tokens_are(book: Path, checkpoint: Callable[[str], Base]):
    from pytorch_reference import data

    base = checkpoint("qwen3")
    encoded = data.pad(data.record_samples(data.Encoder(base.tokenizer), data.read_records(book), None), base.pad_id)
    rows = np.array([3, 0])  # the short ones
    tokens, attention, labels, counted = data.collate(encoded, rows, torch.device("cpu"))
    assert tokens.shape[1] == attention.sum(1).max() == encoded.lengths[rows].max() < encoded.tokens.shape[1]
    trained = labels != -100
    assert torch.equal(labels[trained], tokens[trained])
    assert trained.sum() == encoded.train_mask[rows].sum()
    assert counted.sum() == encoded.answer_mask[rows].sum()
    assert not (counted & ~trained).any()


@pytest.mark.parametrize("rank", [1, 16])
def test_a_starts_uniform_within_one_over_the_root_of_the_rank(rank: int):
    from pytorch_reference.bypass import draw

    a, b = draw(4096, rank, seed=0)
    assert a.shape == (4096, rank) and b.shape == (rank, 4096)
    assert a.abs().max() <= rank**-0.5
    # the standard error of the variance of n uniform draws is 0.9 of it over √n
    assert float(a.var()) == pytest.approx(1 / (3 * rank), rel=5 * 0.9 / math.sqrt(a.numel()))
    assert not b.any()


@pytest.mark.parametrize("merged", [False, True])
def test_dropout_acts_on_the_output_and_in_training_only(merged: bool):
    from pytorch_reference.bypass import Bypass
    from pytorch_reference.protocol import Settings

    torch.manual_seed(0)
    settings = Settings(dropout=0.25, scale=2.0, state_dtype=torch.float32)
    a, b, x = torch.randn(32, 4), torch.randn(4, 32), torch.randn(50, 20, 32)
    made = Bypass(torch.nn.Linear(32, 32), (a, b), settings, merged=merged).eval()
    whole = made.extra(x)
    torch.testing.assert_close(whole, 2 * x @ a @ b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made(x), made.mlp(x) + whole)
    dropped = made.train().extra(x)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=5 * math.sqrt(0.25 * 0.75 / kept.numel()))
    made.on = False
    assert torch.equal(made(x), made.mlp(x))


@pytest.mark.parametrize("mode", ["released", "lean", "peft"])
def test_records_of_every_mode_are_read_by_our_analysis(
    mode: str, book: Path, command: Callable[..., int], tmp_path: Path
):
    from memlaw_jax.analysis.frame import read_frame

    out = tmp_path / "out"
    assert command("--data", book, "--mode", mode, "--ranks", 1, 2, "--length", 7, "--batch-size", 2) == 0
    frame = read_frame(out)
    assert list(frame["rank"]) == [1, 2]
    assert set(frame["length"]) == {12}  # 2 + 4 + 6 tokens reach 7
    assert set(frame["protocol"]) == {"custom" if mode == "peft" else "paper"}
    assert (frame["loss_final"] < frame["loss_initial"]).all()
    assert set(frame["steps"]) == {6}
    wanted = "mlp" if mode != "peft" else "q_proj"
    assert all(targets[0] == wanted for targets in frame["targets"])


def test_the_releases_log_has_a_row_a_step_and_is_read_as_a_run(
    book: Path, command: Callable[..., int], tmp_path: Path
):
    """Without dropout the log's first row is the base's loss, with the adapter and without; our reader finds it."""
    from memlaw_jax.analysis.frame import read_frame

    assert command("--data", book, "--dropout", 0, "--batch-size", 5, "--length", 18) == 0
    (log,) = (tmp_path / "out").rglob("losses.csv")
    assert log.relative_to(tmp_path / "out").parts == ("length_18", "layer_2", "rank_2", "losses.csv")
    lines = [line.split(",") for line in log.read_text().splitlines()]
    assert lines[0] == ["epoch", "step", "pos_steer_loss", "pos_ref_loss", "pos_steering_factors", "token_nums"]
    assert [(row[0], row[1]) for row in lines[1:]] == [(str(i), str(i)) for i in range(6)]
    assert lines[1][2] == lines[1][3] == lines[6][3] > lines[6][2]
    assert {row[5] for row in lines[1:]} == {"23"}  # 18 of the answers, 5 of the ends
    (tmp_path / "out" / "results.jsonl").unlink()
    with pytest.warns(UserWarning, match="no final-loss pass"):
        (run,) = read_frame(tmp_path / "out").to_dict("records")
    assert (run["rank"], run["length"], run["loss_initial"]) == (2, 18, float(lines[1][2]))


def test_records_name_the_protocol_and_the_optimiser_as_ours_do(
    checkpoint: Callable[[str], Base], book: Path, command: Callable[..., int], tmp_path: Path
):
    """So that `memlaw compare` speaks of a difference only where there is one."""
    import memlaw_jax as ml
    from memlaw_jax.analysis import compare

    assert command("--data", book, "--ranks", 2, 3, "--batch-size", 2, "--state-dtype", "float32") == 0
    base, optim = checkpoint("qwen3"), {"steps": 6, "batch_size": 2}
    task = ml.RecordsTask(path=book)
    ml.sweep(base, task, ranks=[2, 3], protocol="paper", optim=optim, out=tmp_path / "ours")  # type: ignore[arg-type]
    found = compare(tmp_path / "ours", tmp_path / "out")
    (told,) = [note for note in found.notes if note.startswith("Not the same")]
    differing = {part.split(" ")[0] for part in told.removeprefix("Not the same experiment: ").split("; ")}
    assert differing <= {"implementation", "task", "model"}, told
    record = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    ours = json.loads((tmp_path / "ours" / "results.jsonl").read_text().splitlines()[0])
    for key in ("protocol", "optimizer", "schedule", "batch_size", "steps", "dropout", "precision", "init", "length"):
        assert record[key] == ours[key], key


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--random-tokens", "0"], "--random-tokens is 0"),
        (["--random-tokens", "9", "--length", "10"], "--length is 10"),
        (["--random-tokens", "400"], "tokens, more than the model's 256"),
        (["--random-tokens", "9", "--ranks", "65"], "only 64 wide"),
        (["--random-tokens", "9", "--layer", "4"], "blocks are 0 to 3"),
        (["--random-tokens", "9", "--dropout", "1"], "--dropout is 1.0"),
        (["--random-tokens", "9", "--epochs", "2"], "not allowed with argument"),
        (["--random-tokens", "9", "--model", "no/such/model"], "cannot be loaded"),
        (["--data", "missing.jsonl"], "missing.jsonl cannot be read"),
        (["--random-tokens", "9", "--mode", "peft", "--layer", "3"], "--layer is no setting of --mode peft"),
        (["--random-tokens", "9", "--mode", "lean", "--alpha", "3"], "--alpha is no setting of --mode lean"),
        ([], "one of the arguments --data --random-tokens is required"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], told: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_line_that_is_no_record_is_named(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"query": "a", "target": "b"}\n{"query": "c"}\n')
    assert command("--data", path) == 2
    assert f"{path}, line 2" in capsys.readouterr().err


def test_a_second_run_does_not_write_into_the_first(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command("--random-tokens", 9) == 0
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert command("--random-tokens", 9) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_it_needs_neither_jax_nor_memlaw_jax():
    names = ("bypass", "cell", "data", "evaluate", "lean", "linear", "protocol", "released", "train")
    code = f"import sys, {', '.join(f'pytorch_reference.{name}' for name in names)}; " + (
        "print([name for name in ('jax', 'flax', 'memlaw_jax') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "[]\n"), found.stderr


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]):
    from pytorch_reference.train import main

    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "python benchmarks/pytorch_reference/train.py --model embedded" in capsys.readouterr().out
