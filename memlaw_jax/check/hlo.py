"""A compiled program's text, as far as it is needed to count what it does: operations, shapes and trips of loops."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
# The kind is the first word before a parenthesis; inside a shape such words follow a colon or a bracket, not a space.
_OP = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+|c64|c128)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_FOLLOWED = {"call", "fusion", "async-start", "conditional"}


@dataclass(frozen=True)
class Op:
    """One operation; `rest` is the text behind its opening parenthesis."""

    name: str
    shape: str
    kind: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of what it reads."""
        return re.findall(r"%([\w.\-]+)", self.rest.split(")")[0])

    def called(self, *keys: str) -> list[str]:
        """Names of the computations that it calls under these keys."""
        names: list[str] = []
        for key in keys:
            for found in re.findall(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest):
                names += re.findall(r"[\w.\-]+", found)
        return names


class Module:
    """The computations of a compiled program, by name.

    Raises:
      ValueError: a text without an entry computation.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Op]] = {}
        self.entry = ""
        current: dict[str, Op] = {}
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else self.entry
            elif found := _OP.match(line):
                current[found[2]] = Op(found[2], found[3], found[4], found[5], bool(found[1]))
        if not self.entry:
            raise ValueError("this text is no compiled program: it has no ENTRY computation")

    def visits(self) -> Iterator[tuple[Op, str, float]]:
        """Every operation with its computation and how often a call of the program runs it.

        Of a conditional's branches each counts as if it were taken. A loop whose number of trips cannot be read counts
        NaN, which shows in every sum over it.
        """
        yield from self._visits(self.entry, 1)

    def _visits(self, name: str, times: float) -> Iterator[tuple[Op, str, float]]:
        for op in self.computations[name].values():
            yield op, name, times
            if op.kind == "while":
                (body,) = op.called("body")
                yield from self._visits(body, times * self.trips(op, name))
            elif op.kind in _FOLLOWED:
                for called in op.called("calls", "to_apply", "branch_computations", "true_computation"):
                    yield from self._visits(called, times)

    def trips(self, loop: Op, computation: str) -> float:
        """How often a loop's body runs: what the compiler noted, or counted up to the constant in its condition."""
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(noted[1])
        (condition,), (body,) = loop.called("condition"), loop.called("body")
        test = next(op for op in self.computations[condition].values() if op.root)
        if test.kind != "compare" or "direction=LT" not in test.rest:
            return math.nan
        counter, limit = (self.computations[condition][name] for name in test.operands)
        stop = self._constant(limit, condition, loop, computation)
        index = _index(counter)
        if stop is None or index is None:
            return math.nan
        start = self._element(loop, computation, index)
        step = self._step(body, index, loop, computation)
        return math.nan if start is None or not step else max(0, math.ceil((stop - start) / step))

    def _constant(self, op: Op, inside: str, loop: Op | None = None, computation: str = "") -> int | None:
        """An integer that never changes, looked for through copies and through the loop's arguments."""
        op = self._source(op, inside)
        if op.kind == "constant":
            value = re.match(r"-?\d+", op.rest)
            return int(value[0]) if value else None
        index = _index(op)
        if loop is None or index is None:
            return None
        return self._element(loop, computation, index)

    def _element(self, loop: Op, computation: str, index: int) -> int | None:
        """What a loop begins with at an index of its tuple."""
        initial = self.computations[computation][loop.operands[0]]
        if initial.kind != "tuple":
            return None
        return self._constant(self.computations[computation][initial.operands[index]], computation)

    def _step(self, body: str, index: int, loop: Op, computation: str) -> int | None:
        """What a round of the loop adds to its counter."""
        ops = self.computations[body]
        result = next(op for op in ops.values() if op.root)
        added = self._source(ops[result.operands[index]], body) if result.kind == "tuple" else result
        if added.kind != "add":
            return None
        others = [op for op in (self._source(ops[name], body) for name in added.operands) if _index(op) != index]
        return self._constant(others[0], body, loop, computation) if len(others) == 1 else None

    def _source(self, op: Op, inside: str) -> Op:
        """What a copy is a copy of."""
        while op.kind in ("copy", "bitcast", "convert"):
            op = self.computations[inside][op.operands[0]]
        return op


def _index(op: Op) -> int | None:
    """Which element of a tuple it takes, if it does."""
    found = re.search(r"\bindex=(\d+)", op.rest) if op.kind == "get-tuple-element" else None
    return int(found[1]) if found else None


def shape_bytes(shape: str) -> int:
    """Bytes of the arrays in a shape's text, tuples included."""
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        bits = _BITS.get(dtype) or int(re.findall(r"\d+", dtype)[0])
        total += math.ceil(math.prod(int(size) for size in sizes.split(",") if size) * bits / 8)
    return total
