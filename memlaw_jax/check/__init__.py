"""Whether a sweep fits hardware that nobody here owns, and how fast it should be there."""

from memlaw_jax.check.flags import GROUPS, flag_environment
from memlaw_jax.check.hardware import Chip, Hardware, find_hardware

__all__ = ["GROUPS", "Chip", "Hardware", "find_hardware", "flag_environment"]
