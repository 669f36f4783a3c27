"""Trips of loops in texts as compilers write them, and sizes of shapes."""

from __future__ import annotations

import math

import pytest

from memlaw_jax.check.hlo import Module, shape_bytes

# A loop as libtpu 0.0.42 writes it: nothing is noted, constants come as arguments of the loop, counters are copied.
LOOP = """HloModule jit_f

%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p = (s32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  %one = s32[]{{:T(128)}} constant({step})
  %next = s32[]{{:T(128)}} add(%i, %one)
  %x = f32[8]{{0}} get-tuple-element(%p), index=1
  %y = f32[8]{{0}} tanh(%x)
  ROOT %t = (s32[]{{:T(128)}}, f32[8]{{0}}) tuple(%next, %y)
}}

%inner_condition (p: (s32[], f32[8])) -> pred[] {{
  %p = (s32[]{{:T(128)}}, f32[8]{{0}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  %n = s32[]{{:T(128)}} constant({stop})
  ROOT %lt = pred[]{{:T(512)}} compare(%i, %n), direction=LT
}}

%outer (q: (s32[], f32[8], s32[], /*index=3*/s32[])) -> (s32[], f32[8], s32[], /*index=3*/s32[]) {{
  %q = (s32[]{{:T(128)}}, f32[8]{{0}}, s32[]{{:T(128)}}, /*index=3*/s32[]{{:T(128)}}) parameter(0)
  %j = s32[]{{:T(128)}} get-tuple-element(%q), index=0
  %c = s32[]{{:T(128)S(6)}} copy(%j)
  %step = s32[]{{:T(128)}} get-tuple-element(%q), index=2
  %next.1 = s32[]{{:T(128)}} add(%c, %step)
  %x.1 = f32[8]{{0}} get-tuple-element(%q), index=1
  %zero = s32[]{{:T(128)}} constant({start})
  %zero.1 = s32[]{{:T(128)}} copy(%zero)
  %in = (s32[]{{:T(128)}}, f32[8]{{0}}) tuple(%zero.1, %x.1)
  %w = (s32[]{{:T(128)}}, f32[8]{{0}}) while(%in), condition=%inner_condition, body=%inner
  %y.1 = f32[8]{{0}} get-tuple-element(%w), index=1
  %n.1 = s32[]{{:T(128)}} get-tuple-element(%q), index=3
  ROOT %t.1 = (s32[], f32[8]{{0}}, s32[], /*index=3*/s32[]) tuple(%next.1, %y.1, %step, %n.1)
}}

%outer_condition (q: (s32[], f32[8], s32[], /*index=3*/s32[])) -> pred[] {{
  %q = (s32[]{{:T(128)}}, f32[8]{{0}}, s32[]{{:T(128)}}, /*index=3*/s32[]{{:T(128)}}) parameter(0)
  %j = s32[]{{:T(128)}} get-tuple-element(%q), index=0
  %n.2 = s32[]{{:T(128)}} get-tuple-element(%q), index=3
  ROOT %lt.1 = pred[]{{:T(512)}} compare(%j, %n.2), direction=LT
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x.2 = f32[8]{{0}} parameter(0)
  %k0 = s32[]{{:T(128)}} constant(0)
  %k1 = s32[]{{:T(128)}} constant(1)
  %k7 = s32[]{{:T(128)}} constant(7)
  %all = (s32[], f32[8]{{0}}, s32[], /*index=3*/s32[]) tuple(%k0, %x.2, %k1, %k7)
  %w.1 = (s32[], f32[8]{{0}}, s32[], /*index=3*/s32[]) while(%all), condition=%outer_condition, body=%outer{noted}
  ROOT %out = f32[8]{{0}} get-tuple-element(%w.1), index=1
}}
"""


def tanhs(**changed: object) -> float:
    text = LOOP.format(**({"start": 0, "stop": 5, "step": 1, "noted": ""} | changed))
    (times,) = [times for op, _, times in Module(text).visits() if op.kind == "tanh"]
    return times


@pytest.mark.parametrize(
    "changed, times", [({}, 35), ({"start": 2}, 21), ({"step": 2}, 21), ({"start": 9}, 0), ({"stop": 1}, 7)]
)
def test_nested_loops_multiply_their_trips(changed: dict[str, int], times: int):
    assert tanhs(**changed) == times


def test_what_the_compiler_noted_goes_first():
    assert tanhs(noted=', backend_config={"known_trip_count":{"n":"11"}}') == 55


def test_a_limit_that_is_no_constant_is_not_guessed():
    changed = LOOP.format(start=0, stop=5, step=1, noted="").replace("constant(5)", "custom-call()")
    assert any(math.isnan(times) for op, _, times in Module(changed).visits() if op.kind == "tanh")


def test_a_conditional_counts_each_branch():
    text = """HloModule m

%yes (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %t = f32[8]{0} tanh(%p)
}

ENTRY %main (x: f32[8], c: pred[]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %c = pred[] parameter(1)
  ROOT %r = f32[8]{0} conditional(%c, %x, %x), branch_computations={%yes, %yes}
}
"""
    assert [op.kind for op, _, _ in Module(text).visits()].count("tanh") == 2


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[8,2]{1,0}", 64),
        ("bf16[4096,4096]{1,0:T(8,128)(2,1)S(1)}", 2 * 4096**2),
        ("(bf16[2]{0}, s32[]{:T(128)}, /*index=2*/u32[]{:S(2)}, pred[3]{0})", 4 + 4 + 4 + 3),
        ("s4[3]", 2),
        ("f8e4m3fn[5]", 5),
        ("token[]", 0),
    ],
)
def test_bytes_of_shapes(shape: str, size: int):
    assert shape_bytes(shape) == size


def test_what_is_no_program_is_said():
    with pytest.raises(ValueError, match="ENTRY"):
        Module("HloModule m\n")
