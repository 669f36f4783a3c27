"""What the chips of a compiled program tell each other: collectives by kind, bytes, and the mesh axes they follow."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from memlaw_jax.check.hlo import Module, Op, shape_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_MEGASCALE = "_xla_megascale_target"


@dataclass(frozen=True)
class Layout:
    """Where the devices of a mesh are: `[slices, chips a slice, axes]` coordinates, in the program's numbering.

    A program for several slices is written for one of them; what crosses slices names them from 1.
    """

    axes: tuple[str, ...]
    coordinates: Int[np.ndarray, "S C axes"]

    @classmethod
    def of(cls, shape: dict[str, int], slices: Sequence[int] | None = None) -> Layout:
        """The layout of a mesh's shape; `slices` is that of each device, in the mesh's order; None is one slice."""
        places = np.array(list(np.ndindex(*shape.values()))).reshape(-1, len(shape))
        numbers = np.zeros(len(places), int) if slices is None else np.asarray(slices)
        return cls(tuple(shape), np.stack([places[numbers == number] for number in np.unique(numbers)]))

    def along(self, groups: Iterable[Sequence[tuple[int, int]]]) -> tuple[str, ...]:
        """The axes along which members of a group, each `(slice, chip)`, differ."""
        varies = np.zeros(len(self.axes), bool)
        for group in groups:
            places = np.array([self.coordinates[member] for member in group])
            varies |= (places != places[0]).any(axis=0)
        return tuple(axis for axis, differs in zip(self.axes, varies, strict=True) if differs)


@dataclass(frozen=True)
class Collective:
    """One kind of collective along the same axes, over a whole step.

    Attributes:
      kind: as XLA calls it.
      axes: mesh axes that it runs along.
      crosses_slices: whether it leaves the slice, over the data centre's network.
      count: how often a step runs it; NaN where that cannot be read.
      bytes: what a chip sends for it a step, in rings.
    """

    kind: str
    axes: tuple[str, ...]
    crosses_slices: bool
    count: float
    bytes: float


def collectives(text: str, layout: Layout, steps: int = 1) -> list[Collective]:
    """Collectives of a compiled program that does `steps` optimiser steps a call, the largest first.

    Groups of one chip send nothing and are left out. An asynchronous collective is counted where it starts.
    """
    module = Module(text)
    sums: dict[tuple[str, tuple[str, ...], bool], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for op, computation, times in module.visits():
        found = _read(op, module.computations[computation], layout)
        if found is not None and found[1]:
            kind, axes, crosses, sent = found
            total = sums[kind, axes, crosses]
            total[0] += times / steps
            total[1] += times * sent / steps
    made = [Collective(*key, *total) for key, total in sums.items()]
    return sorted(made, key=lambda one: -one.bytes)


def _read(op: Op, around: dict[str, Op], layout: Layout) -> tuple[str, tuple[str, ...], bool, float] | None:
    """Kind, axes, whether it crosses slices, and bytes a chip sends; None for what is no collective or goes on."""
    if op.kind == "send" and _MEGASCALE in op.rest:
        return _read_megascale(op, around, layout)
    kind = op.kind.removesuffix("-start")
    if kind not in KINDS or _goes_on(op, around):
        return None
    chips = layout.coordinates.shape[1]
    groups = _pairs(op) if kind == "collective-permute" else _groups(op, chips)
    size = sum(shape_bytes(around[name].shape) for name in op.operands)
    axes = layout.along([[(0, chip) for chip in group] for group in groups])
    return kind, axes, False, size * _rounds(kind, max(map(len, groups), default=1))


def _rounds(kind: str, members: int) -> float:
    """What a chip sends for each byte that it puts in, in a ring of so many members."""
    share = (members - 1) / members
    return {
        "all-gather": members - 1, "all-reduce": 2 * share, "reduce-scatter": share, "all-to-all": share,
    }.get(kind, 1.0)  # fmt: skip


def _goes_on(op: Op, around: dict[str, Op]) -> bool:
    """Whether this is the middle or end of a collective that TPUs spread over several fusions; each names it."""
    if "async_collective_fusion_config" not in op.rest:
        return False
    return not any('custom_call_target="AsyncCollectiveStart"' in other.rest for other in around.values())


def _groups(op: Op, chips: int) -> list[list[int]]:
    """Chips that take part together, from a list, `[groups, members]<=[sizes]T(order)`, or axes of a mesh of XLA's own.

    Raises:
      ValueError: a form that is not known.
    """
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", op.rest):
        shape, sizes = ([int(size) for size in part.split(",")] for part in found.groups()[:2])
        order = [int(axis) for axis in found[3].split(",")] if found[3] else list(range(len(sizes)))
        return np.arange(np.prod(sizes)).reshape(sizes).transpose(order).reshape(shape).tolist()
    if found := re.search(r"replica_groups=mesh\[([^\]]+)\] \{([^}:]*)\}(?!,? *device_ids)", op.rest):
        sizes = [int(size) for size in re.findall(r"=(\d+)", found[1])]
        names, along = (re.findall(r"'([^']+)'", part) for part in found.groups())
        order = [names.index(name) for name in [*(name for name in names if name not in along), *along]]
        members = math.prod(sizes[names.index(name)] for name in along)
        return np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(-1, members).tolist()
    found = re.search(r"replica_groups=(\{\}|\{\{[\d,{}]*\}\})", op.rest)
    if found is None:
        raise ValueError(f"the groups of {op.kind} {op.name} are in an unknown form: {op.rest[:200]}")
    groups = [[int(chip) for chip in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
    return groups or [list(range(chips))]


def _pairs(op: Op) -> list[list[int]]:
    """Senders and receivers of a collective-permute."""
    found = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", op.rest)
    return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", found[1] if found else "")]


def _read_megascale(op: Op, around: dict[str, Op], layout: Layout) -> tuple[str, tuple[str, ...], bool, float]:
    """What crosses slices: a transfer to the host, which speaks to the hosts of the other slices."""
    target = re.search(_MEGASCALE + r'="\{([\d,:]+)\}', op.rest)
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.rest)
    members = _numbers(target[1]) if target else [1]
    size = shape_bytes(around[op.operands[0]].shape)
    groups = [[(member - 1, chip) for member in members] for chip in range(layout.coordinates.shape[1])]
    name = kind[1].lower().replace("_", "-") if kind else "send"
    return name, layout.along(groups), True, size * _rounds(name, len(members))


def _numbers(text: str) -> list[int]:
    """`1,2` or `1:4`, ends included, as numbers."""
    spans = [part.split(":") for part in text.split(",")]
    return [number for span in spans for number in range(int(span[0]), int(span[-1]) + 1)]
