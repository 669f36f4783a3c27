"""Collectives of programs that are known by construction, and in texts as the TPU compiler writes them."""

from __future__ import annotations

import json
import math
import subprocess

import numpy as np
import pytest

from memlaw_jax.check.collectives import Collective, Layout, collectives

from .eight_devices import BLOCKS, ROWS, SHAPE, STEPS, WIDTH

CUBE = Layout.of(SHAPE)
X, W = 4 * ROWS * WIDTH, 4 * WIDTH * WIDTH  # bytes of a device's x, and of a block's whole weight


@pytest.fixture(scope="module")
def texts(child_environment: dict[str, str], python: str) -> dict[str, str]:
    environment = child_environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    child = subprocess.run([python, "-m", "check.eight_devices"], env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def table(found: list[Collective]) -> dict[tuple[str, tuple[str, ...]], tuple[float, float]]:
    return {(one.kind, one.axes): (one.count, one.bytes) for one in found}


def test_what_a_step_sends_is_what_it_was_made_to_send(texts: dict[str, str]):
    found = collectives(texts["steps"], CUBE, STEPS)
    assert table(found) == {
        ("all-gather", ("fsdp",)): (BLOCKS, BLOCKS * W / 2),
        ("all-gather", ("data", "fsdp")): (1, 3 * X / 4),
        ("all-reduce", ("data",)): (1, X),
        ("collective-permute", ("data",)): (1, X),
        ("reduce-scatter", ("data", "fsdp")): (1, 3 * X / 4),
        ("all-to-all", ("fsdp",)): (1, X / 2),
    }
    assert [one.bytes for one in found] == sorted((one.bytes for one in found), reverse=True)
    assert not any(one.crosses_slices for one in found)


def test_what_runs_along_adapters_is_told_from_what_does_not(texts: dict[str, str]):
    assert [one.axes for one in collectives(texts["crossing"], CUBE)] == [("adapters", "fsdp")]
    assert [one.axes for one in collectives(texts["everywhere"], CUBE)] == [("adapters", "data", "fsdp")]
    assert collectives(texts["alone"], CUBE) == []


def program(*lines: str, before: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    head = "ENTRY %main (p: f32[64]) -> f32[64] {\n  %p = f32[64]{0} parameter(0)"
    return f"HloModule jit_f\n\n{before}\n{head}\n{body}\n}}\n"


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("fsdp",)),
        ("replica_groups=[4,2]<=[8]", ("fsdp",)),
        ("replica_groups=[4,2]<=[4,2]T(1,0)", ("data",)),  # 0, 2, 4, 6, 1, 3, … two by two: {0,2}, {4,6}, …
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ("adapters", "data")),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("adapters",)),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", ("data",)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", ("fsdp",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ("adapters",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_0','axis_2'}", ("adapters", "data", "fsdp")),
        ("replica_groups={}", ("adapters", "data", "fsdp")),
        ("replica_groups={{0,7},{1,6},{2,5},{3,4}}", ("adapters", "data", "fsdp")),
    ],
)
def test_groups_in_every_form(groups: str, axes: tuple[str, ...]):
    text = program(f"ROOT %a = f32[64]{{0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%sum")
    assert [one.axes for one in collectives(text, CUBE)] == [axes]


def test_groups_of_one_send_nothing():
    text = program("ROOT %a = f32[64]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}")
    assert collectives(text, CUBE) == []


def test_an_unknown_form_of_groups_is_said():
    with pytest.raises(ValueError, match="unknown form"):
        collectives(program("ROOT %a = f32[64]{0} all-reduce(%p), replica_groups=@mesh"), CUBE)


def test_start_and_done_are_one_collective():
    text = program(
        "%s = (f32[64]{0}, f32[128]{0}) all-gather-start(%p), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}",
        "%d = f32[128]{0} all-gather-done(%s)",
        "%c = (f32[64]{0}, f32[64]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p), "
        "source_target_pairs={{0,4},{4,0},{1,1}}",
        "ROOT %e = f32[64]{0} collective-permute-done(%c)",
    )
    assert table(collectives(text, CUBE)) == {
        ("all-gather", ("fsdp",)): (1, 256),
        ("collective-permute", ("adapters",)): (1, 256),
    }


GATHER = (
    "all-gather(%q), channel_id=3, replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}, "
    'backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}'
)


def test_a_gather_that_tpus_spread_over_three_fusions_is_one():
    """libtpu 0.0.42 names it in the fusion that starts it, in those that multiply beside it, and in the last one."""
    fusions = "".join(
        f"%{name} (q: f32[64]) -> f32[128] {{\n  %q = f32[64]{{0}} parameter(0)\n  %g = f32[128]{{0}} {GATHER}\n"
        f"  {last}\n}}\n\n"
        for name, last in (
            ("start", 'ROOT %r = f32[128]{0} custom-call(%g), custom_call_target="AsyncCollectiveStart"'),
            ("async_collective_fusion.1", "ROOT %r = (f32[128]{0}, f32[128]{0}) tuple(%g, %g)"),
            ("end", 'ROOT %r = f32[128]{0} custom-call(%g), custom_call_target="AsyncCollectiveDone"'),
        )
    )
    text = program(
        "%a = f32[128]{0} fusion(%p), kind=kCustom, calls=%start",
        "%b = (f32[128]{0}, f32[128]{0}) fusion(%p), kind=kOutput, calls=%async_collective_fusion.1",
        "ROOT %c = f32[128]{0} fusion(%p), kind=kCustom, calls=%end",
        before=fusions,
    )
    assert table(collectives(text, CUBE)) == {("all-gather", ("fsdp",)): (1, 256)}


def test_a_fused_collective_that_is_not_spread_counts():
    inner = (
        "%fused (q: f32[64]) -> f32[64] {\n  %q = f32[64]{0} parameter(0)\n"
        "  ROOT %r = f32[64]{0} all-reduce(%q), replica_groups={{0,4}}\n}\n"
    )
    text = program("ROOT %a = f32[64]{0} fusion(%p), kind=kCustom, calls=%fused", before=inner)
    assert table(collectives(text, CUBE)) == {("all-reduce", ("adapters",)): (1, 256)}


def test_what_crosses_slices_is_a_transfer_to_the_host():
    """A program for two slices is written for one of them, whose chips it counts from 0."""
    shape = {"adapters": 2, "data": 2, "fsdp": 2}
    slices = np.array([place[1] for place in np.ndindex(2, 2, 2)])  # data is between the slices
    layout = Layout.of(shape, slices)
    text = program(
        "%t = token[] after-all()",
        "%s = (f32[64]{0}, u32[], token[]) send(%p, %t), channel_id=2, is_host_transfer=true, frontend_attributes="
        '{_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}',
        "%g = f32[128]{0} all-gather(%p), replica_groups={{0,1},{2,3}}, dimensions={0}",
        "ROOT %d = token[] send-done(%s), channel_id=2, is_host_transfer=true",
    )
    found = collectives(text, layout)
    assert {(one.kind, one.axes, one.crosses_slices, one.bytes) for one in found} == {
        ("all-reduce", ("data",), True, 256),
        ("all-gather", ("fsdp",), False, 256),
    }


def test_a_loop_whose_trips_cannot_be_read_is_not_guessed():
    loop = (
        "%body (q: f32[64]) -> f32[64] {\n  %q = f32[64]{0} parameter(0)\n"
        "  ROOT %r = f32[64]{0} all-reduce(%q), replica_groups={{0,4}}\n}\n\n"
        "%condition (q: f32[64]) -> pred[] {\n  %q = f32[64]{0} parameter(0)\n  ROOT %r = pred[] custom-call(%q)\n}\n"
    )
    text = program("ROOT %w = f32[64]{0} while(%p), condition=%condition, body=%body", before=loop)
    (found,) = collectives(text, CUBE)
    assert found.axes == ("adapters",) and math.isnan(found.count)
