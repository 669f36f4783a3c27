"""Reports of reckoned steps: their sums, what moves them, and every reason to refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from memlaw_jax.check.collectives import Collective
from memlaw_jax.check.compiled import needed_bytes
from memlaw_jax.check.hardware import GIB
from memlaw_jax.check.predict import predict
from memlaw_jax.check.report import Report
from memlaw_jax.check.run import check_sweep
from memlaw_jax.errors import UserError
from memlaw_jax.training import SweepConfig

QWEN = {
    "model": "Qwen/Qwen3-8B", "dtype": "bfloat16", "task": {"kind": "long_context"}, "lengths": (2000,),
    "ranks": tuple(range(1, 65)), "optim": {"steps": 100}, "hardware": "h100-8", "lanes": 8,
}  # fmt: skip


def report(fix: bool = False, **changed: Any) -> Report:
    return check_sweep(SweepConfig(**(QWEN | changed)), fix=fix)


@pytest.fixture(scope="module")
def plain() -> Report:
    return report()


def test_the_parts_are_what_they_are_known_to_be(plain: Report):
    """Qwen3-8B above block 24: eleven blocks of 193 M weights and a head of 622 M, 2 bytes each."""
    parts = plain.as_json()["memory_a_chip"]
    assert parts["frozen_weights"] == pytest.approx(2 * (11 * 192.95e6 + 622.3e6), rel=1e-3)
    assert parts["features"] == pytest.approx(2 * 2 * 4096 * plain.step.plan.bucket.width, rel=0.02)
    # A and B of rank 64 and two moments each, float32
    assert parts["adapters"] == pytest.approx(3 * 4 * 8192 * 64, rel=0.02)
    names = ("frozen_weights", "adapters", "features", "temporaries")
    assert parts["total"] == sum(parts[name] for name in names)
    assert plain.whole_model == pytest.approx(2 * 8.19e9 / 8, rel=0.01)


def test_a_step_that_fits_says_so(plain: Report):
    told = plain.as_json()
    assert told["fits"] and told["reasons"] == [] and told["collectives"] == [] and not told["compiled"]
    words = plain.words()
    assert "reckoned, not compiled" in words and "Predicted, not measured" in words
    assert "Verdict: fits." in words and "tokenizer is not here" in words


def test_weights_split_over_fsdp_are_gathered_and_lanes_with_them(plain: Report):
    split = report(mesh={"ici": {"fsdp": 8}}, lanes=64)
    assert split.step.weights == pytest.approx(plain.step.weights / 8, rel=0.01)
    assert split.step.plan.lanes_a_chip == 8
    (gather,) = split.step.collectives or ()
    assert (gather.kind, gather.axes) == ("all-gather", ("fsdp",))
    # every weight of another chip twice, forward and backward, the head's once
    blocks, head = 2 * 11 * 192.95e6, 2 * 622.3e6
    assert gather.bytes == pytest.approx(7 / 8 * (2 * blocks + head), rel=0.01)


def test_heads_split_over_tensor_share_the_products(plain: Report):
    one = predict(plain.step.plan, "none", [], plain.hardware.chip)
    split = report(mesh={"ici": {"tensor": 8}}, lanes=1)
    shared = predict(split.step.plan, "none", [], plain.hardware.chip)
    assert shared.flops == pytest.approx(one.flops / 8, rel=0.01)
    assert [one.axes for one in split.step.collectives or ()] == [("tensor",)]


def test_what_is_sent_takes_time_by_the_network_it_takes(plain: Report):
    chip = dataclasses.replace(plain.hardware.chip, ici=100e9, dcn=1e9)
    within = predict(plain.step.plan, "none", [Collective("all-gather", ("fsdp",), False, 1, 8e9)], chip)
    between = predict(plain.step.plan, "none", [Collective("all-reduce", ("data",), True, 1, 8e9)], chip)
    assert within.communication == pytest.approx(0.1) and between.communication == pytest.approx(10)
    assert between.seconds == 10 and between.bound == "communication"
    alone = predict(plain.step.plan, "none", [], chip)
    assert alone.communication == 0 and alone.compute_to_communication is None


def test_too_many_lanes_are_refused_with_the_memory_they_need():
    found = report(hardware="h100-1", lanes=64, lengths=(10000,), fix=True)
    assert len(found.reasons) == 1 and "64 lanes needs" in found.reasons[0] and "55.88 GiB" in found.reasons[0]
    assert "does not fit" in found.words()
    most = found.as_json()["largest_lanes"]
    assert 1 <= most < 64 and f"most lanes that fit are {most}" in found.words()
    assert report(hardware="h100-1", lanes=64, lengths=(10000,)).step.total > found.step.usable
    edge = [
        report(hardware="h100-1", lanes=n, ranks=tuple(range(1, n + 1)), lengths=(10000,)) for n in (most, most + 1)
    ]
    assert edge[0].step.fits and not edge[1].step.fits


def test_a_model_that_cannot_even_be_loaded_is_refused(plain: Report):
    small = dataclasses.replace(plain.hardware, chip=dataclasses.replace(plain.hardware.chip, usable=7 * GIB))
    step = dataclasses.replace(plain.step, usable=7 * GIB, temporaries=0)
    (reason,) = dataclasses.replace(plain, hardware=small, step=step).reasons
    assert reason.startswith("loading the model needs")


def test_a_collective_along_adapters_is_refused(plain: Report):
    crossing = [Collective("all-reduce", ("adapters", "fsdp"), False, 1, 4.0)]
    found = dataclasses.replace(plain, step=dataclasses.replace(plain.step, collectives=crossing))
    assert found.reasons == ["the program has collectives along adapters: all-reduce"]
    along = dataclasses.replace(crossing[0], axes=("fsdp",))
    assert dataclasses.replace(plain, step=dataclasses.replace(plain.step, collectives=[along])).reasons == []


def test_a_refused_program_says_what_it_would_need():
    new = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (17.25G) exceeds available HBM (15.75G)."
    old = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.0M of 15.75G hbm."
    assert needed_bytes(new) == 17.25 * GIB and needed_bytes(old) == 0.5 * GIB
    with pytest.raises(UserError, match="refuses this step: INTERNAL: no"):
        needed_bytes("INTERNAL: no")


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"hardware": None}, "names no hardware"),
        ({"hardware": "h100-9"}, "h100-9"),
        ({"mesh": {"ici": {"adapters": 3}}}, "8 devices"),
        ({"mesh": {"ici": {"data": 8}}}, "reads 1 samples"),
        ({"xla_flags": ("all-of-them",)}, "all-of-them"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(changed: dict[str, Any], told: str):
    with pytest.raises(UserError, match=told):
        report(**changed)
