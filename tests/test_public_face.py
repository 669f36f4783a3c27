"""What the outside may use, and that it costs nothing until it is used (DESIGN.md, "The Python face")."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memlaw_jax as ml

if TYPE_CHECKING:
    from memlaw_jax.models import Base

pytestmark = pytest.mark.usefixtures("quick_compiler")

CONTRACT = (
    "load_base LoraConfig train Sft MemFTOT MemFTSW OptimConfig sweep recall fit_law plan load_adapter to_peft "
    "from_peft UserError"
)
ROOMS = ("analysis", "interop", "models", "objectives", "readout", "results", "tasks", "training")


@pytest.mark.parametrize("name", ml.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(ml, name) is not None and name in dir(ml)


def test_the_designs_names_are_public() -> None:
    assert set(CONTRACT.split()) <= set(ml.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_can_be_entered_and_lists_what_may_be_used(room: str) -> None:
    found = getattr(ml, room)
    assert found.__name__ == f"memlaw_jax.{room}" and found.__doc__
    for name in found.__all__:
        assert getattr(found, name) is not None


def test_functions_are_not_hidden_by_the_modules_of_their_name() -> None:
    """`ml.recall`, `ml.train` and `ml.sweep` are functions, whichever module was imported first."""
    import memlaw_jax.analysis.planning.plan
    import memlaw_jax.readout.recall
    import memlaw_jax.training.sweep
    import memlaw_jax.training.train  # noqa: F401

    for function in (ml.recall, ml.train, ml.sweep, ml.fit_law, ml.plan, ml.training.train, ml.readout.recall):
        assert callable(function)


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="forget"):
        _ = ml.forget


def loads(statement: str, python: str, *names: str) -> list[str]:
    """Which of the modules are loaded after a statement in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*(n for n in {names!r} if n in sys.modules))"
    child = subprocess.run([python, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout.split()


def test_importing_the_package_loads_nothing_heavy(python: str) -> None:
    heavy = ("jax", "flax", "transformers", "tokenizers", "scipy", "pandas", "matplotlib", "optax")
    assert loads("import memlaw_jax", python, *heavy) == []
    assert loads("import memlaw_jax as ml; ml.load_base", python, "jax") == ["jax"]  # the question can be answered yes


def test_a_law_can_be_fitted_where_jax_is_not_installed(python: str) -> None:
    statement = "sys.modules['jax'] = None\nimport memlaw_jax as ml\nml.fit_law, ml.analysis.fit_and_draw"
    assert loads(statement, python, "flax", "transformers", "scipy") == ["scipy"]


RECORDS = [("Ada:", "4207"), ("Bob:", "1193"), ("Cleo:", "8560")]


def test_an_adapter_that_was_trained_and_saved_recalls_the_same_when_loaded(base: Base, tmp_path: Path) -> None:
    lora = ml.LoraConfig(rank=16, alpha=24.0)
    adapter, history = ml.train(base, RECORDS, lora=lora, optim=ml.OptimConfig(steps=80, learning_rate=1e-2))
    report = ml.recall(base, adapter, RECORDS)
    assert history.loss.shape == (80,) and history.loss[-1] < history.loss[0]
    assert report.exact_match == 1.0 and report.keys == ("Ada:", "Bob:", "Cleo:") and report.nats.shape[0] == 3
    erased = dataclasses.replace(
        adapter, weights={"mlp": {name: 0 * leaf for name, leaf in adapter.weights["mlp"].items()}}
    )
    assert ml.recall(base, erased, RECORDS).exact_match == 0.0
    assert report.loss <= history.loss[-1] + 0.05  # the report is of the weights after the last update

    adapter.save(tmp_path / "adapter")
    loaded = ml.load_adapter(tmp_path / "adapter")
    again = ml.recall(base, loaded, RECORDS)
    np.testing.assert_array_equal(again.nats, report.nats)
    np.testing.assert_array_equal(again.right, report.right)
    assert loaded.lora == lora and loaded.layers == adapter.layers == (2,)


def test_records_come_in_any_form(base: Base) -> None:
    """Pairs, mappings and Records are the same to the model."""
    from memlaw_jax.readout import encode

    dicts = [{"query": query, "target": target} for query, target in RECORDS]
    questions = [{"question": query, "answer": target} for query, target in RECORDS]
    first = encode(base, RECORDS)
    for form in (dicts, questions, ml.tasks.make_records(dicts)):
        np.testing.assert_array_equal(encode(base, form).tokens, first.tokens)
    assert first.answer_tokens == 12


@pytest.mark.parametrize("records", [[], [("Ada:", "")], [("Ada:", "1"), ("Ada:", "2")], [("Ada:", "1" * 300)]])
def test_records_that_cannot_be_recalled_are_refused(base: Base, records: list[tuple[str, str]]) -> None:
    with pytest.raises(ml.UserError):
        ml.train(base, records, optim=ml.OptimConfig(steps=1))


def test_settings_name_what_is_allowed() -> None:
    with pytest.raises(ml.UserError, match=r"rnak.*rank"):
        ml.LoraConfig(rnak=3)  # type: ignore[call-arg]
    with pytest.raises(ml.UserError, match="-1"):
        ml.OptimConfig(steps=-1)
    with pytest.raises(ml.UserError, match="exactly one"):
        ml.OptimConfig(steps=1, epochs=1)
    with pytest.raises(ml.UserError, match="exactly one"):
        ml.OptimConfig()
