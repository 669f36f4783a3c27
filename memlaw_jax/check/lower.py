"""The real training step of a sweep's largest pool of lanes, lowered from shapes for a mesh that need not be here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from memlaw_jax.mesh import MeshConfig
from memlaw_jax.models import Base, Cut, Features, Upper, frozen_features, init_adapter, upper_shardings, upper_weights
from memlaw_jax.models.decoder import Remat, default_positions
from memlaw_jax.readout import DataSets
from memlaw_jax.tasks import Encoded
from memlaw_jax.training.buckets import Bucket, dispatch_steps, grouped, lane_count
from memlaw_jax.training.cell import Cell
from memlaw_jax.training.grid import Grid
from memlaw_jax.training.memory import needed_remat
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.step import Lane, LaneSettings, Program, new_lane, run_steps
from memlaw_jax.training.sweep_config import SweepConfig

Arguments = tuple[Lane, LaneSettings, Upper, DataSets, jax.ShapeDtypeStruct]


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """A pool of lanes as `training.pool` would make it, without weights or features.

    Attributes:
      cells: that share the lanes.
      bucket: what a step reads of a data set.
      sets: those data sets that the cells use.
      lanes: how many there are, all devices together.
      steps: optimiser steps of a dispatch.
      samples: of a data set, filled up to the largest.
    """

    base: Base
    placement: Placement
    config: SweepConfig
    cells: tuple[Cell, ...]
    bucket: Bucket
    sets: tuple[Encoded, ...]
    lanes: int
    steps: int

    @property
    def cut(self) -> Cut:
        """Where the decoder is cut."""
        return Cut.of(self.base.config, self.cells[0].lora)

    @property
    def rank(self) -> int:
        """What ranks are padded to."""
        return max(cell.lora.rank for cell in self.cells)

    @property
    def samples(self) -> int:
        """Samples of a data set on the device."""
        return self.bucket.samples if self.bucket.whole else max(len(encoded.tokens) for encoded in self.sets)

    @property
    def lanes_a_chip(self) -> int:
        """Lanes that a device works on."""
        return self.lanes // self.placement.ways

    @property
    def tokens_a_chip(self) -> int:
        """Tokens of a step of all lanes of a device, padding included."""
        samples = self.bucket.samples // self.placement.mesh.shape["data"]
        return self.lanes_a_chip * samples * self.bucket.width

    def encoded(self, cell: Cell) -> Encoded:
        """The data set of one of its cells."""
        return self.sets[sorted({one.data for one in self.cells}).index(cell.data)]

    def total_steps(self, cell: Cell) -> int:
        """Optimiser steps of one of its cells."""
        return self.config.optim.total_steps(len(self.encoded(cell).tokens), cell.curriculum)

    def with_lanes(self, lanes: int) -> PoolPlan:
        """The same pool with another number of lanes."""
        return dataclasses.replace(self, lanes=self.placement.fit(lanes))

    def remat(self, free: float) -> Remat:
        """What the sweep would compute again with so many bytes free for activations, as `training.memory` decides."""
        if self.config.remat is not None:
            return self.config.remat
        return needed_remat(self.base.config, self.cut, self.base.dtype, self.tokens_a_chip, free)

    def program(self, remat: Remat) -> Program:
        """What the compiler must know."""
        objectives = tuple(dict.fromkeys(cell.objective for cell in self.cells))
        lora = self.cells[0].lora
        return Program(self.base.config, self.cut, objectives, self.config.optim.compiled, lora.dropout, remat)

    def arguments(self, program: Program) -> Arguments:
        """Shapes and places of what `run_steps` takes after the program."""
        place = self.placement

        def lane() -> Lane:
            lora = self.cells[0].lora
            fresh = init_adapter(self.base.config, lora, jax.random.key(0), padded_rank=self.rank)
            return new_lane(program, fresh, self.samples, self.bucket.samples)

        def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.lanes, *leaf.shape), leaf.dtype, sharding=place.lanes())

        picked = 0 if self.bucket.whole else self.bucket.samples
        return (
            jax.tree.map(stacked, jax.eval_shape(lane)),
            jax.tree.map(stacked, _SETTINGS),
            self.upper,
            self.data,
            jax.ShapeDtypeStruct((self.steps, self.lanes, picked), jnp.int32, sharding=place.lanes(1)),
        )

    @cached_property
    def upper(self) -> Upper:
        """Shapes and places of the frozen weights above the cut."""
        made = jax.eval_shape(lambda params: upper_weights(self.base.config, params, self.cut), self.base.params)
        return jax.tree.map(_placed, made, upper_shardings(self.placement.mesh, made))

    @cached_property
    def data(self) -> DataSets:
        """Shapes and places of features, labels and masks."""
        shape = self.samples, self.bucket.width, self.bucket.slots
        fitted = [encoded.fitted(*shape) for encoded in self.sets]

        def features(params: Any, tokens: jax.Array) -> Features:
            return frozen_features(self.base.config, params, self.cut, tokens, default_positions(tokens))

        made = jax.eval_shape(features, self.base.params, jax.ShapeDtypeStruct(shape[:2], jnp.int32))
        data = jax.eval_shape(lambda features: DataSets.of(features, fitted), made)
        return jax.tree.map(lambda leaf: _placed(leaf, self.placement.whole), data)

    def lower(self, program: Program) -> jax.stages.Lowered:
        """The step of this pool, ready to compile for the mesh's devices."""
        return run_steps.lower(program, *self.arguments(program), mesh=self.placement.mesh)


_SETTINGS = LaneSettings(
    scale=jax.ShapeDtypeStruct((), jnp.float32),  # type: ignore[arg-type]
    learning_rate=jax.ShapeDtypeStruct((), jnp.float32),  # type: ignore[arg-type]
    total_steps=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
    seed=jax.ShapeDtypeStruct((), jnp.uint32),  # type: ignore[arg-type]
    objective=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
    data=jax.ShapeDtypeStruct((), jnp.int32),  # type: ignore[arg-type]
)


def largest_pool(base: Base, config: SweepConfig, placement: Placement) -> PoolPlan:
    """The pool of the sweep whose step reads the most tokens on a device.

    Raises:
      UserError: a grid that cannot be run, or a mesh that does not divide the model.
    """
    return max(pools(base, config, placement), key=lambda plan: plan.tokens_a_chip)


def pools(base: Base, config: SweepConfig, placement: Placement) -> list[PoolPlan]:
    """All pools of the sweep, in the order in which they run.

    Raises:
      UserError: a grid that cannot be run, or a mesh that does not divide the model.
    """
    placement.check(base.config)
    # The grid itself needs no mesh, and this one's devices may not be here.
    grid = Grid(base, dataclasses.replace(config, mesh=MeshConfig(), parallelism="jit"))
    sets = list(grid.encoded.values())
    cells = [planned.cell for planned in grid.cells]
    groups = grouped(sets, cells, config.optim, placement, lambda encoded: _source(sets, encoded))
    return [_plan(base, config, placement, bucket, group, sets) for bucket, group in groups]


def _plan(
    base: Base, config: SweepConfig, placement: Placement, bucket: Bucket, cells: list[Cell], sets: list[Encoded]
) -> PoolPlan:
    longest = max(config.optim.total_steps(len(sets[cell.data].tokens), cell.curriculum) for cell in cells)
    return PoolPlan(
        base=base,
        placement=placement,
        config=config,
        cells=tuple(cells),
        bucket=bucket,
        sets=tuple(sets[index] for index in sorted({cell.data for cell in cells})),
        lanes=lane_count(len(cells), config.lanes, placement),
        steps=dispatch_steps(longest, config.steps_per_dispatch, config.stop),
    )


def _source(sets: Sequence[Encoded], encoded: Encoded) -> int:
    """The data set whose features serve this one, as `training.frozen` finds it: the largest that it begins."""
    order = sorted(range(len(sets)), key=lambda index: -sets[index].tokens.size)
    return next(index for index in order if encoded.begins(sets[index]))


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def bytes_a_chip(tree: Any) -> int:
    """Bytes of a tree of placed shapes that one device holds."""
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))
