"""Methods as a grid names them: what a config may say, what tells cells apart, and what records hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memlaw_jax as ml
from memlaw_jax.models import Base
from memlaw_jax.objectives import MemFTOT, MemFTSW, Sft
from memlaw_jax.training import METHODS, Curriculum, Method, OptimConfig, SweepConfig, make_method
from memlaw_jax.training.method import RELEASED

pytestmark = pytest.mark.usefixtures("quick_compiler")

NAMES = ["sft", "memft-ot", "memft-sw", "memft-curriculum"]


def test_the_names_are_those_of_the_paper() -> None:
    assert list(METHODS) == list(RELEASED) == NAMES
    for name in NAMES:
        assert make_method(name) == METHODS[name] == make_method({"kind": name}) == make_method(METHODS[name])
    assert [type(method.objective) for method in METHODS.values()] == [Sft, MemFTOT, MemFTSW, MemFTOT]
    assert [method.curriculum is not None for method in METHODS.values()] == [False, False, False, True]
    assert METHODS["memft-curriculum"].objective.skips and not METHODS["memft-ot"].objective.skips


def test_a_mapping_changes_single_settings_and_leaves_the_others() -> None:
    method = make_method({"kind": "memft-sw", "kappa": 2.0, "when_empty": "zero", "name": "gentle"})
    assert method == Method(name="gentle", objective=MemFTSW(kappa=2.0, when_empty="zero"))
    ot = make_method({"kind": "memft-curriculum", "threshold": 0.9})
    assert ot.objective == MemFTOT(threshold=0.9, when_empty="skip")  # the kind's own, not MemFTOT's default
    released = make_method({"kind": "memft-sw", "tau": 64.0}, RELEASED)
    assert released.objective == replace(MemFTSW.release(), tau=64.0) and released.objective.losses == "bfloat16"


@pytest.mark.parametrize(
    ("kind", "given", "name", "curriculum"),
    [
        ("sft", True, "sft+curriculum", Curriculum()),
        ("sft", False, "sft", None),
        ("memft-ot", {"ratios": [0.5, 1.0], "boundaries": [3]}, "memft-ot+curriculum", (0.5, 1.0)),
        ("memft-curriculum", True, "memft-curriculum", Curriculum()),
        ("memft-curriculum", False, "memft-curriculum", None),
        ("memft-curriculum", {"boundaries": [1, 2, 3, 4]}, "memft-curriculum", (0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_a_curriculum_is_added_taken_away_or_set(kind: str, given: Any, name: str, curriculum: Any) -> None:
    method = make_method({"kind": kind, "curriculum": given})
    assert method.name == name
    if isinstance(curriculum, tuple):
        assert method.curriculum is not None and method.curriculum.ratios == curriculum
        assert method.curriculum.boundaries == tuple(given["boundaries"])
    else:
        assert method.curriculum == curriculum


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("memft", ["'memft'", *NAMES]),
        ({"kind": "adam"}, ["'adam'", *NAMES]),
        ({"threshold": 0.5}, ["threshold", "kind", *NAMES]),
        (3, ["3", *NAMES]),
        ({"kind": "sft", "threshold": 0.5}, ["method sft", "threshold"]),
        ({"kind": "memft-ot", "treshold": 0.5}, ["treshold", "allowed", "threshold", "when_empty"]),
        ({"kind": "memft-ot", "threshold": 1.5}, ["threshold", "1.5", "less than 1"]),
        ({"kind": "memft-ot", "when_empty": "stop"}, ["when_empty", "stop", "skip"]),
        ({"kind": "memft-sw", "window": 0}, ["window", "0", "1"]),
        ({"kind": "sft", "name": ""}, ["name", "''"]),
        ({"kind": "sft", "name": 3}, ["name", "3"]),
        ({"kind": "sft", "curriculum": "yes"}, ["curriculum", "'yes'", "true, false"]),
        ({"kind": "sft", "curriculum": {"speed": 1}}, ["curriculum", "speed", "ratios"]),
        ({"kind": "sft", "curriculum": {"ratios": [0.5, 1.0]}}, ["2 ratios", "4 boundaries"]),
    ],
)
def test_what_is_no_method_is_told_with_its_key(spec: Any, words: list[str]) -> None:
    with pytest.raises(ml.UserError) as error:
        make_method(spec)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


TASK: dict[str, Any] = {"task": {"kind": "long_context"}, "ranks": (1,)}


def test_two_methods_of_one_name_are_refused_and_one_named_twice_is_one() -> None:
    with pytest.raises(ml.UserError, match=r"two different methods are called memft-ot.*`name`"):
        SweepConfig(methods=("memft-ot", {"kind": "memft-ot", "threshold": 0.9}), **TASK)
    named = {"kind": "memft-ot", "threshold": 0.9, "name": "stricter"}
    assert [m.name for m in SweepConfig(methods=("memft-ot", named), **TASK).made_methods()] == ["memft-ot", "stricter"]
    assert len(SweepConfig(methods=("memft-ot", {"kind": "memft-ot"}), **TASK).made_methods()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_protocol_paper_trains_as_the_release_does_and_nothing_else(name: str) -> None:
    """PAPER.md, section 4: losses compared in bfloat16, and a window that belongs to a row of the batch."""
    (method,) = SweepConfig(protocol="paper", methods=(name,), **TASK).made_methods()
    assert method == RELEASED[name]
    assert name == "sft" or method.objective.losses == "bfloat16"
    assert name != "memft-sw" or method.objective.state_of == "row"
    if name != "sft":
        for value in (0.9, 0.5001):
            with pytest.raises(ml.UserError, match="protocol paper fixes what its methods are"):
                SweepConfig(protocol="paper", methods=({"kind": name, "threshold": value},), **TASK)
        with pytest.raises(ml.UserError, match="protocol paper fixes"):
            SweepConfig(protocol="paper", methods=({"kind": name, "losses": "float32"},), **TASK)
    other = {"kind": name, "curriculum": {"ratios": [0.5, 1.0], "boundaries": [10]}}
    (shorter,) = SweepConfig(protocol="paper", methods=(other,), **TASK).made_methods()
    assert shorter.curriculum is not None and shorter.curriculum.boundaries == (10,)
    assert shorter.objective == method.objective


def test_plain_sft_is_its_name_and_all_else_is_told_apart_by_every_setting() -> None:
    """Cells of version 0.1, which had no other methods, keep their ids."""
    assert make_method("sft").identity == "sft"
    specs: list[Any] = [
        "sft", "memft-ot", "memft-sw", "memft-curriculum",
        {"kind": "sft", "curriculum": True}, {"kind": "sft", "curriculum": {"drop_last": True}},
        {"kind": "memft-ot", "threshold": 0.6}, {"kind": "memft-ot", "when_empty": "zero"},
        {"kind": "memft-ot", "losses": "bfloat16"}, {"kind": "memft-ot", "curriculum": True},
        {"kind": "memft-sw", "kappa": 9.0}, {"kind": "memft-sw", "tau": 9.0}, {"kind": "memft-sw", "window": 9},
        {"kind": "memft-sw", "floor": 0.5}, {"kind": "memft-sw", "patience": 9}, {"kind": "memft-sw", "cap": 9.0},
        {"kind": "memft-sw", "expansion": 9.0}, {"kind": "memft-sw", "state_of": "row"},
        {"kind": "memft-curriculum", "curriculum": {"boundaries": [1, 2, 3, 4]}},
    ]  # fmt: skip
    identities = [repr(make_method(spec).identity) for spec in specs]
    assert len(set(identities)) == len(specs)
    # what a method is called is no part of what it is, or a name would cost a training
    assert make_method({"kind": "memft-ot", "name": "mine"}).identity == make_method("memft-ot").identity


PAIRS = [("ab", "cdef"), ("gh", "ij"), ("kl", "mno"), ("pq", "rstuv"), ("wx", "yz")]
SPECS: dict[str, Any] = {
    **{name: name for name in NAMES[:3]},
    NAMES[3]: {"kind": NAMES[3], "curriculum": {"ratios": [0.4, 1.0], "boundaries": [10]}},
}


def swept(base: Base, out: Path, *methods: Any) -> dict[str, dict[str, Any]]:
    """The records of a sweep over methods, by method, of adapters that get some tokens above ½ and not all."""
    results = ml.sweep(
        base, ml.RecordsTask(records=PAIRS), ranks=[8], methods=methods, out=out, steps_per_dispatch=30,
        optim=OptimConfig(epochs=30, batch_size=2, learning_rate=2e-2),
    )  # fmt: skip
    return {record["method"]: record for record in results.records}


@pytest.fixture(scope="module")
def mixed(base: Base, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return swept(base, tmp_path_factory.mktemp("mixed") / "out", *SPECS.values())


def test_records_hold_what_each_method_was_and_did(mixed: dict[str, dict[str, Any]]) -> None:
    """16 answer tokens; 5 records, 2 at a time, are 3 steps; the curriculum reads 2 records, and then all."""
    assert list(mixed) == NAMES
    losses = sorted(record["loss_final"] for record in mixed.values())
    assert min(np.diff(losses)) > 1e-3, losses
    for name in NAMES[:3]:
        assert (mixed[name]["steps"], mixed[name]["token_visits"]) == (90, 30 * 16)
    assert mixed[NAMES[3]]["steps"] == 10 * 1 + 20 * 3
    assert 10 * 2 * 2 + 20 * 16 <= mixed[NAMES[3]]["token_visits"] < 30 * 16
    assert mixed["sft"]["objective"] == {"kind": "sft"}
    assert mixed["memft-sw"]["objective"]["kappa"] == 10.0
    assert mixed["memft-ot"]["objective"] == {
        "kind": "memft-ot", "threshold": 0.5, "when_empty": "sft", "losses": "float32",
    }  # fmt: skip
    assert mixed["memft-curriculum"]["objective"]["curriculum"]["boundaries"] == [10]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in NAMES[:2] else []) for name in NAMES]
)
def test_a_method_in_a_mixed_sweep_is_what_it_is_in_one_of_its_own(
    base: Base, mixed: dict[str, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    """Float32 sums in another order, of losses about 5; Adam's steps after a token crosses ½ spread that further."""
    (alone,) = swept(base, tmp_path / "alone", SPECS[name]).values()
    for key in ("cell_id", "steps", "token_visits", "objective", "stopped", "exact_match", "token_accuracy"):
        assert alone[key] == mixed[name][key], key
    for key in ("loss_initial", "loss_final", "p_min"):
        assert alone[key] == pytest.approx(mixed[name][key], abs=1e-4), key


def test_an_objective_is_a_method_of_its_name() -> None:
    made = make_method(ml.MemFTSW.axolotl())
    assert (made.name, made.curriculum) == ("memft-sw", None) and made.objective == ml.MemFTSW.axolotl()
    assert make_method(ml.Sft()) == make_method("sft")
