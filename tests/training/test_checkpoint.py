"""Checkpoints: what is saved comes back, what is torn is left out, and a stopped training ends as one that was not."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memlaw_jax.errors import UserError
from memlaw_jax.models import Base, LoraConfig
from memlaw_jax.objectives import MemFTSW, Sft
from memlaw_jax.tasks import Encoded
from memlaw_jax.training import Cell, OptimConfig, Outcome, train_cells
from memlaw_jax.training.checkpoint import KEPT, Checkpoints, Saved

from . import lab
from .fleet import lines, run
from .test_lanes import assert_identical, assert_same

pytestmark = pytest.mark.usefixtures("quick_compiler")


def tree(seed: int = 0) -> dict[str, Any]:
    """Every kind of leaf that a lane has, and an objective that remembers nothing."""
    rng = np.random.default_rng(seed)
    return {
        "sft-r1-lr0.01-0a": {
            "lane": {
                "weights": {"mlp": {"a": jnp.asarray(rng.standard_normal((2, 3)), jnp.bfloat16)}},
                "moments": {"first": jnp.asarray(rng.standard_normal((2, 3)), jnp.float32), "count": jnp.int32(seed)},
                "memory": {},
            },
            "history": {"loss": rng.standard_normal(4).astype(np.float32)},
        },
        "a name/with anything-r2": {"lane": {"memory": {"stretch": np.array([1.5, np.inf], np.float32)}}},
    }


def write(folder: Path, count: int) -> None:
    """`count` checkpoints, one after the other; the notes say which."""
    with closing(Checkpoints(folder)) as checkpoints:
        for seed in range(count):
            checkpoints.save(tree(seed), {"cell": {"done": seed}})
            checkpoints._orbax.wait()


def load(folder: Path) -> Saved | None:
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.load()


def assert_holds(found: Saved | None, seed: int) -> None:
    assert found is not None and found.notes == {"cell": {"done": seed}}
    expected = jax.device_get(tree(seed))
    assert jax.tree.structure(found.arrays) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found.arrays), jax.tree.leaves(expected), strict=True):
        # NumPy: a checkpoint has no devices, and can go on on others
        assert isinstance(one, np.ndarray) and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_what_is_saved_comes_back_bit_for_bit_and_only_the_last_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "kept", 4)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"2", "3"} and KEPT == 2
    assert_holds(load(tmp_path / "kept"), 3)


def test_closing_waits_for_the_disk_and_removing_deletes(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new")
    checkpoints.save(tree(), {"cell": {"done": 0}})
    checkpoints.close()
    assert_holds(load(tmp_path / "new"), 0)
    checkpoints.remove()
    checkpoints.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_until_something_is_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.load() is None and not checkpoints.due
    assert Checkpoints(tmp_path / "new", every=0).due
    checkpoints.close()
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []


NOTES = {
    "sft-r1-lr0.01-0a": {
        "cell": "0a1b", "rank": 1, "alpha": 32.0, "targets": ["mlp", "q_proj"], "started": "2026-01-01T00:00:00+00:00",
        "done": 50, "seconds": 1.5, "token_visits": 10**12,
    },
    "a name/with anything-r2": {"targets": [], "alpha": None, "done": 0},
}  # fmt: skip


def test_the_notes_of_each_cell_come_back(tmp_path: Path) -> None:
    """Which adapter it is can be told without reading its arrays."""
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(tree(), NOTES)
    found = load(tmp_path)
    assert found is not None and found.notes == NOTES
    with closing(Checkpoints(tmp_path)) as checkpoints:
        assert checkpoints._orbax.metadata(0).custom_metadata == NOTES


def test_saving_takes_its_share_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Checkpoints(tmp_path, every=0, share=0.1)) as checkpoints:
        taken, real = 0.3, checkpoints._orbax.save_async  # seconds

        def slow(*arguments: Any, **options: Any) -> None:
            time.sleep(taken)
            real(*arguments, **options)

        monkeypatch.setattr(checkpoints._orbax, "save_async", slow)
        assert checkpoints.due
        checkpoints.save(tree(), {"cell": {}})
        checkpoints._orbax.wait()
        assert 10 * taken <= checkpoints._pause < 20 * taken and not checkpoints.due
        checkpoints._last -= checkpoints._pause
        assert checkpoints.due


def test_none_is_due_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Checkpoints(tmp_path, every=0, share=math.inf)) as checkpoints:
        checkpoints.save(tree(), {"cell": {}})
        checkpoints._orbax.wait()
        assert checkpoints.due
        monkeypatch.setattr(checkpoints._orbax, "is_saving_in_progress", lambda: True)
        assert not checkpoints.due


def test_a_buckets_address_stays_what_it_is() -> None:
    assert str(Checkpoints("gs://bucket/runs/checkpoints").directory) == "gs://bucket/runs/checkpoints"


TOGETHER = """
import time
import numpy as np
from memlaw_jax.training.checkpoint import Checkpoints
places = sys.argv[1]
checkpoints = Checkpoints(places, every=0.2, share=float("inf"))
found = checkpoints.load()
print(found and (found.notes, found.arrays["cell"]["weights"].tolist(), type(found.arrays["cell"]["weights"]).__name__))
due = []
for step in range(200):  # the clocks differ, and the answers do not
    due.append(checkpoints.due)
    if due[-1]:
        checkpoints.save({"cell": {"weights": np.full(3, step, np.float32)}}, {"cell": {"done": step}})
    time.sleep(0.005 * (1 + me))
print(sum(due) > 1, due)
checkpoints.save({"cell": {"weights": np.full(3, 7 + jax.process_count(), np.float32)}}, {"cell": {"done": 200}})
checkpoints.close()
"""

TORN = """
import shutil
from memlaw_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
print(checkpoints.load().notes)
checkpoints.remove()
print(os.path.exists(sys.argv[1]))
"""


def test_several_processes_save_together_and_any_number_goes_on(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """Two, then one, then three on one folder; each finds what those before it left."""
    before = "None"
    for turn, processes in enumerate((2, 1, 3)):
        folder = tmp_path / f"said {turn}"
        said = lines(run(TOGETHER, folder, child_environment, str(tmp_path / "kept"), processes=processes))
        assert all(one == said[0] for one in said)
        assert said[0][0] == before and said[0][1].startswith("True")
        before = str(({"cell": {"done": 200}}, [7.0 + processes] * 3, "ndarray"))
        assert len(list((tmp_path / "kept").iterdir())) == KEPT
    assert_holds_together(tmp_path / "kept", 10.0)
    latest = max((tmp_path / "kept").iterdir(), key=lambda path: int(path.name))
    cut_short(latest)  # all processes take the one before
    said = lines(run(TORN, tmp_path / "said torn", child_environment, str(tmp_path / "kept")))
    assert said[0][0] == said[1][0] and "'done'" in said[0][0] and said[0][1] == "False"
    assert not (tmp_path / "kept").exists()


def assert_holds_together(folder: Path, value: float) -> None:
    found = load(folder)
    assert found is not None and found.arrays["cell"]["weights"].tolist() == [value] * 3


def gone(name: str) -> Callable[[Path], None]:
    def damage(step: Path) -> None:
        for path in list(step.rglob(name)):
            path.unlink()

    damage.__name__ = f"{name} gone"
    return damage


def emptied(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def cut_short(step: Path) -> None:
    """As after a power cut: names without contents."""
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20])


DAMAGES = [gone("_CHECKPOINT_METADATA"), gone("_METADATA"), gone("manifest.ocdbt"), emptied, cut_short]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a thread of orbax's outlives its loop
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_torn_checkpoint_is_left_out_with_a_warning(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The one before is taken, and the next is written behind both; with none left there is nothing to go on with."""
    write(tmp_path, 2)
    damage(tmp_path / "1")
    with pytest.warns(UserWarning, match=r"1 is left out, it cannot be read: .") as told:
        assert_holds(load(tmp_path), 0)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    shutil.rmtree(tmp_path / "1")
    damage(tmp_path / "0")
    with pytest.warns(UserWarning, match="0 is left out"):
        assert load(tmp_path) is None
    write(tmp_path, 1)
    assert_holds(load(tmp_path), 0)


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    write(tmp_path, 1)
    shutil.copytree(tmp_path / "0", tmp_path / "1.orbax-checkpoint-tmp")
    assert_holds(load(tmp_path), 0)
    assert {path.name for path in tmp_path.iterdir()} == {"0"}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        checkpoints = Checkpoints(place)
        with pytest.raises(UserError, match=f"checkpoints in {place} cannot be written"):
            checkpoints.save(tree(), {"cell": {}})
        checkpoints.close()
    assert (tmp_path / "file").read_text() == "mine"


FULL = """
import resource, sys, warnings
import numpy as np
from memlaw_jax.errors import UserError
from memlaw_jax.training.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
checkpoints.save({"w": np.zeros(3)}, {"a": 1})
checkpoints._orbax.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    checkpoints.save({"w": np.random.default_rng(0).standard_normal(100_000)}, {"a": 2})
    checkpoints.close()
except UserError as error:
    print(error)
checkpoints.close()
print(Checkpoints(sys.argv[1]).load().notes)
"""


def test_a_full_disk_is_one_sentence(tmp_path: Path, python: str, child_environment: dict[str, str]) -> None:
    """A limit on the size of any file fails as a full disk does: in a thread of orbax's, in many lines."""
    child = subprocess.run(
        [python, "-c", FULL, str(tmp_path / "new")], env=child_environment, capture_output=True, text=True
    )
    assert child.stderr == "", child.stderr
    told, before = child.stdout.splitlines()
    assert told.startswith(f"checkpoints in {tmp_path / 'new'} cannot be written or read: ") and len(told) < 500
    assert before == "{'a': 1}"


class Stopped(Exception):
    """What stops a training here, as a signal would."""


class Trainings:
    """A training of cells that is stopped again and again: after so many dispatches, with a checkpoint before it."""

    def __init__(self, base: Base, encoded: Encoded, cells: Sequence[Cell], folder: Path, **options: Any):
        self.base, self.encoded, self.cells, self.folder, self.options = base, encoded, cells, folder, options
        self.outcomes: dict[str, Outcome] = {}
        self.steps: list[tuple[str, int]] = []  # of each dispatch, over all trainings

    def run(self, dispatches: int = 10**6, **options: Any) -> bool:
        """Goes on with the cells that have not finished; whether all of them have now."""
        left = [cell for cell in self.cells if cell.name not in self.outcomes]
        ends = len(self.steps) + dispatches * min((self.options | options)["lanes"], len(left))
        with closing(Checkpoints(self.folder, every=0, share=math.inf)) as checkpoints:

            def listen(cell: Cell, step: int, metrics: Any) -> None:
                if "_orbax" in checkpoints.__dict__:
                    checkpoints._orbax.wait()  # else a dispatch of milliseconds skips its checkpoint
                if len(self.steps) == ends:
                    raise Stopped
                self.steps.append((cell.name, step))

            settings = self.options | options | {"checkpoints": checkpoints, "listen": listen}
            try:
                for outcome in train_cells(self.base, self.encoded, left, **settings):
                    self.outcomes[outcome.cell.name] = outcome
            except Stopped:
                return False
        return True

    def steps_of(self, name: str) -> list[int]:
        return [step for cell, step in self.steps if cell == name]


OPTIM = OptimConfig(steps=60, batch_size=3, clip=0.8, weight_decay=0.1)
OPTIONS: dict[str, Any] = {"optim": OPTIM, "steps_per_dispatch": 10}
SW = MemFTSW(kappa=3.0, tau=1.5, window=1, floor=0.05, patience=2, expansion=1.0, cap=3.0)


def mixed(rate: float = 2e-2) -> list[Cell]:
    """Three ranks and methods, the first of which ends before the others have begun where there are two lanes."""
    objectives = {"sft": Sft(), "sw": SW, "sw by row": dataclasses.replace(SW, state_of="row"), "sft again": Sft()}
    ranks = (8, 2, 3, 5)
    return [
        Cell(lora=LoraConfig(rank=rank), seed=rank, learning_rate=rate, objective=objective, name=name)
        for (name, objective), rank in zip(objectives.items(), ranks, strict=True)
    ]


def assert_as_if_never_stopped(found: dict[str, Outcome], expected: dict[str, Outcome], exact: bool) -> None:
    assert set(found) == set(expected)
    for name, outcome in expected.items():
        (assert_identical if exact else assert_same)(found[name], outcome)
        for field in ("objective", "above_half", "exact_match", "active", "accuracy"):
            one, other = (getattr(either.history, field) for either in (found[name], outcome))
            np.testing.assert_allclose(one, other, atol=0 if exact else 2e-5, rtol=0, err_msg=field)
        assert (found[name].token_visits, found[name].steps) == (outcome.token_visits, outcome.steps)
        assert found[name].seconds > 0 and found[name].started <= outcome.started


def noisy(prefix: str = "") -> list[Cell]:
    """Two of them, with dropout, whose noise must go on too."""
    return [
        dataclasses.replace(cell, name=prefix + cell.name, lora=dataclasses.replace(cell.lora, dropout=0.2))
        for cell in mixed()[:2]
    ]


@pytest.mark.parametrize("state", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_stopped_and_gone_on_again_and_again_nothing_changes(
    base: Base, book: Encoded, tmp_path: Path, state: str
) -> None:
    """The same lanes and dispatches are the same program on the same numbers: every bit is the same."""
    options = OPTIONS | {"lanes": 2, "optim": dataclasses.replace(OPTIM, state=state)}
    trainings = Trainings(base, book, noisy(), tmp_path / "checkpoints", **options)
    while not trainings.run(dispatches=2):
        assert len(trainings.steps) < 100
    for cell in noisy():  # each dispatch was done once, in three trainings of two
        assert trainings.steps_of(cell.name) == [0, 10, 20, 30, 40, 50]
    assert_as_if_never_stopped(trainings.outcomes, lab.run(base, book, noisy(), **options), exact=True)


def test_the_checkpoint_of_other_cells_is_left_alone(base: Base, book: Encoded, tmp_path: Path) -> None:
    options = OPTIONS | {"lanes": 2}
    assert not Trainings(base, book, noisy(), tmp_path, **options).run(dispatches=2)
    others = Trainings(base, book, noisy("other "), tmp_path, **options)
    assert others.run()
    assert others.steps_of("other sw") == [0, 10, 20, 30, 40, 50]
    assert_as_if_never_stopped(others.outcomes, lab.run(base, book, noisy("other "), **options), exact=True)


def test_other_lanes_ranks_methods_and_dispatches_change_no_cell(base: Base, book: Encoded, tmp_path: Path) -> None:
    """Rank 8 and one of the SFTs have finished when the rest goes on: in one lane, and then in two, of longer
    dispatches. Other shapes are other programs, which sum in another order: `test_lanes` says how far apart that is.
    """
    cells, options = mixed(), OPTIONS | {"lanes": 2}
    trainings = Trainings(base, book, cells, tmp_path, **options)
    assert not trainings.run(dispatches=8)
    assert set(trainings.outcomes) == {"sft", "sw"}
    assert trainings.steps_of("sw by row") == trainings.steps_of("sft again") == [0, 10]
    assert not trainings.run(dispatches=1, lanes=1)
    assert trainings.steps_of("sw by row") == [0, 10, 20] and trainings.steps_of("sft again") == [0, 10]
    assert trainings.run(steps_per_dispatch=15)
    assert trainings.steps_of("sw by row") == [0, 10, 20, 30, 45]
    assert trainings.steps_of("sft again") == [0, 10, 20, 35, 50]  # a lane that had to wait has lost nothing either
    assert_as_if_never_stopped(trainings.outcomes, lab.run(base, book, cells, **options), exact=False)
