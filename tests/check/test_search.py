"""The search for the most lanes, with a step whose memory is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from memlaw_jax.check.search import MOST, largest_fit


@dataclass(frozen=True)
class Way:
    """A placement of lanes over so many chips."""

    ways: int

    def fit(self, lanes: int) -> int:
        return -(-lanes // self.ways) * self.ways


@dataclass(frozen=True)
class Plan:
    lanes: int
    placement: Way
    cells: tuple[int, ...]

    @property
    def lanes_a_chip(self) -> int:
        return self.lanes // self.placement.ways

    def with_lanes(self, lanes: int) -> Plan:
        return Plan(self.placement.fit(lanes), self.placement, self.cells)


@dataclass
class Compiler:
    """A step whose temporaries are `base + each · lanes`, of which `room` fit; it counts what it is asked."""

    room: float
    base: float
    each: float
    asked: list[int] = field(default_factory=list)

    def __call__(self, plan: Any) -> Any:
        self.asked.append(plan.lanes_a_chip)
        temporaries = self.base + self.each * plan.lanes_a_chip

        class Step:
            weights, features, adapters, reserve, usable = 0, 0, 0, 0, self.room
            fits = temporaries <= self.room

        Step.plan, Step.temporaries = plan, temporaries  # type: ignore[attr-defined]
        return Step()


@pytest.mark.parametrize("begin", [1, 5, 12])
@pytest.mark.parametrize(
    "room, base, each", [(100, 0, 9), (100, 30, 9), (100, 60, 9), (10, 0, 9), (100, 7, 2), (1e4, 5e3, 50)]
)
@pytest.mark.parametrize("cells", [1000, 24])
def test_it_finds_the_most_that_fit_and_no_more_than_there_are_cells(
    begin: int, room: float, base: float, each: float, cells: int
):
    compiler = Compiler(room, base, each)
    plan = Plan(2 * begin, Way(2), tuple(range(cells)))
    found = largest_fit(compiler(plan), compiler)
    right = min(int((room - base) // each), cells // 2)
    assert found is not None and found.plan.lanes == 2 * right
    assert len(compiler.asked) == len(set(compiler.asked)) <= 5 <= MOST


def test_not_even_one_lane_fits():
    compiler = Compiler(room=10, base=20, each=1)
    assert largest_fit(compiler(Plan(8, Way(2), tuple(range(50)))), compiler) is None
    assert 1 in compiler.asked


def test_what_fits_already_for_all_cells_is_not_compiled_again():
    compiler = Compiler(room=1000, base=0, each=1)
    found = largest_fit(compiler(Plan(6, Way(2), tuple(range(6)))), compiler)
    assert found is not None and found.plan.lanes == 6 and compiler.asked == [3]
