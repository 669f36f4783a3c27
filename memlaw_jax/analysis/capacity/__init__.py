"""How many bits an adapter holds, beside what the literature found."""

from memlaw_jax.analysis.capacity.capacity import Capacity, measure_capacity
from memlaw_jax.analysis.capacity.words import describe_capacity

__all__ = ["Capacity", "describe_capacity", "measure_capacity"]
