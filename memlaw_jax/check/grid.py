"""How long a whole grid should take and what it needs, reckoned from shapes: a prediction, never a measurement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from memlaw_jax.check.abstract import abstract_base
from memlaw_jax.check.compiled import Step, reckoned_step
from memlaw_jax.check.flops import step_flops
from memlaw_jax.check.grid_report import GridPrediction, GridRow, GridTotals, Memory
from memlaw_jax.check.hardware import find_hardware
from memlaw_jax.check.local import this_machine
from memlaw_jax.check.lower import PoolPlan, pools
from memlaw_jax.check.phonebook import shaped
from memlaw_jax.check.predict import predict
from memlaw_jax.check.topology import stand_ins
from memlaw_jax.training.cell import Cell
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.sweep_config import SweepConfig

# Seconds that compiling a step is taken to cost: on a CPU about what the embedded base's takes, with its features
# and verification (`check.local`); assumed for the rest, whose models are large.
COMPILING = {"cpu": 10.0, "gpu": 60.0, "tpu": 60.0}


def predict_grids(configs: Iterable[SweepConfig]) -> GridTotals:
    """The predictions of several sweeps, such as those of a benchmark; see `predict_grid`."""
    return GridTotals(grids=tuple(predict_grid(config) for config in configs))


def predict_grid(config: SweepConfig) -> GridPrediction:
    """Cells, arithmetic, time and memory of a sweep on its `hardware`, or on this machine where it names none.

    No compiler is asked and no weights are read, so that it takes seconds for models of any size.

    Raises:
      UserError: unknown hardware, or a mesh or model that does not suit it.
    """
    hardware = this_machine() if config.hardware is None else find_hardware(config.hardware)
    placement = Placement(config.mesh.build(stand_ins(hardware)), config.parallelism)
    base, own = abstract_base(config.model, config.dtype, config.attention)
    plans = pools(base, config if own else shaped(config), placement)
    steps = [reckoned_step(plan, hardware.chip.usable) for plan in plans]
    times = [predict(step.plan, step.remat, step.collectives or (), hardware.chip).seconds for step in steps]
    return GridPrediction(
        model=config.model,
        task=config.made_task().name,
        hardware=hardware.name,
        chips=hardware.chips,
        lanes=config.lanes,
        rows=tuple(row for step, seconds in zip(steps, times, strict=True) for row in _rows(step, seconds)),
        training=sum(seconds * _rounds(plan) for plan, seconds in zip(plans, times, strict=True)),
        compiling=COMPILING[hardware.chip.platform] * len(plans),
        usd_an_hour=hardware.price,
        memory=Memory.of(max(steps, key=lambda step: step.plan.tokens_a_chip)),
    )


def _rounds(plan: PoolPlan) -> float:
    """Steps that a pool takes until all its cells are done.

    Cells as long as each other go in rounds. Others, as those of a phone book's lengths, leave their lanes to the next
    in the queue, which keeps lanes full until it is empty: they take their share, and no less than the longest.
    """
    steps = [plan.total_steps(cell) for cell in plan.cells]
    if len(set(steps)) == 1:
        return -(-len(steps) // plan.lanes) * steps[0]
    return max(sum(steps) / plan.lanes, max(steps))


def _rows(step: Step, seconds: float) -> Iterator[GridRow]:
    plan = step.plan
    alike: dict[tuple[int, int], list[Cell]] = {}
    for cell in plan.cells:
        alike.setdefault((cell.data, plan.total_steps(cell)), []).append(cell)
    for (_, steps), cells in alike.items():
        encoded = plan.encoded(cells[0])
        count, tokens = encoded.tokens.shape
        samples = plan.config.optim.batch(count)
        yield GridRow(
            length=encoded.answer_tokens, cells=len(cells), steps=steps, samples=samples, tokens=tokens,
            step_seconds=seconds, remat=step.remat,
            flops=steps * samples * sum(_sample_flops(plan, cell) for cell in cells),
        )  # fmt: skip


def _sample_flops(plan: PoolPlan, cell: Cell) -> float:
    encoded = plan.encoded(cell)
    tokens, answers = encoded.tokens.shape[1], encoded.labels.shape[1]
    return sum(step_flops(plan.base.config, plan.cut, cell.lora, rank=cell.lora.rank, tokens=tokens, answers=answers))
