from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Memlaw = Callable[..., Said]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """`main` takes SIGTERM for itself, and the tests run it in their own process."""
    before = signal.getsignal(signal.SIGTERM)
    # The shell of a background job has SIGINT ignored, which its children inherit.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def memlaw(capsys: pytest.CaptureFixture[str]) -> Memlaw:
    """`memlaw("sweep", path, …)`, in this process."""
    from memlaw_jax.cli.main import main

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse leaves so
            code = int(left.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def records(folder: Path) -> list[dict[str, Any]]:
    """The finished cells of a folder, by rank and length."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda record: (record["length"], record["rank"]))


def compare(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same cells with the same numbers, but for when, how fast and from which commit they were made.

    Cells of a resumed sweep may share a step with fewer others: float32 sums in another order, losses of about 5.
    """
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for key in set(one) - {"seconds", "started", "git"}:
            if isinstance(one[key], float):
                assert one[key] == pytest.approx(other[key], abs=5e-5), key
            else:
                assert one[key] == other[key], key


@pytest.fixture(scope="session")
def config(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of 3 ranks and 2 lengths that takes seconds."""
    path = tmp_path_factory.mktemp("config") / "grid.yaml"
    path.write_text(
        f"""# ranks × lengths
model: {tiny_dir}
task: {{kind: long_context, ratio: 1.0, tokens: 40}}
lengths: [12, 24]
ranks: [1, 2, 4]
optim: {{steps: 30, learning_rate: 0.01}}
steps_per_dispatch: 10
"""
    )
    return path


@pytest.fixture(scope="session")
def swept(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Memlaw], tuple[Path, Said]]:
    """The folder of the finished grid and what the command said; run once. Look, do not touch."""
    folder, said = tmp_path_factory.mktemp("swept") / "grid", []

    def run(memlaw: Memlaw) -> tuple[Path, Said]:
        if not said:
            said.append(memlaw("sweep", config, "--out", folder))
        return folder, said[0]

    return run


@pytest.fixture
def copy(swept: Callable[[Memlaw], tuple[Path, Said]], memlaw: Memlaw, tmp_path: Path) -> Path:
    """A copy of the finished grid, to be touched."""
    import shutil

    return Path(shutil.copytree(swept(memlaw)[0], tmp_path / "copy"))
