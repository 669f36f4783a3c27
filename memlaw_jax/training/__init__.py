"""Training: the pure step, the lanes, the sweep."""

from memlaw_jax.training.cell import Cell, History, Outcome
from memlaw_jax.training.checkpoint import Checkpoints
from memlaw_jax.training.frozen import Frozen
from memlaw_jax.training.lanes import train_cells
from memlaw_jax.training.method import METHODS, Method, make_method
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.order import Curriculum, Order
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.preemption import Preemption
from memlaw_jax.training.protocol import PROTOCOLS, Protocol
from memlaw_jax.training.step import Lane, LaneSettings, Metrics, Program, new_lane, run_steps, train_step
from memlaw_jax.training.sweep import SweepResults, run_sweep, sweep
from memlaw_jax.training.sweep_config import SweepConfig
from memlaw_jax.training.train import train

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "Cell",
    "Checkpoints",
    "Curriculum",
    "Frozen",
    "History",
    "Lane",
    "LaneSettings",
    "Method",
    "Metrics",
    "OptimConfig",
    "Order",
    "Outcome",
    "Placement",
    "Preemption",
    "Program",
    "Protocol",
    "SweepConfig",
    "SweepResults",
    "make_method",
    "new_lane",
    "run_steps",
    "run_sweep",
    "sweep",
    "train",
    "train_cells",
    "train_step",
]
