"""Training: the pure step, the lanes, the sweep."""

from memlaw_jax.training.lanes import Cell, History, Outcome, train_cells
from memlaw_jax.training.optim import OptimConfig
from memlaw_jax.training.placement import Placement
from memlaw_jax.training.protocol import PROTOCOLS, Protocol
from memlaw_jax.training.step import Lane, LaneSettings, Metrics, Program, new_lane, run_steps, train_step
from memlaw_jax.training.sweep import SweepConfig, SweepResults, run_sweep, sweep
from memlaw_jax.training.train import train

__all__ = [
    "PROTOCOLS",
    "Cell",
    "History",
    "Lane",
    "LaneSettings",
    "Metrics",
    "OptimConfig",
    "Outcome",
    "Placement",
    "Program",
    "Protocol",
    "SweepConfig",
    "SweepResults",
    "new_lane",
    "run_steps",
    "run_sweep",
    "sweep",
    "train",
    "train_cells",
    "train_step",
]
