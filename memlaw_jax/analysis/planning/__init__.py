"""What a law is for: the rank that a text needs, and the sweep that a better law needs."""

from memlaw_jax.analysis.planning.design import SweepDesign, design_sweep
from memlaw_jax.analysis.planning.design_pilot import pilot_rates
from memlaw_jax.analysis.planning.design_words import describe_design
from memlaw_jax.analysis.planning.plan import Plan, plan
from memlaw_jax.analysis.planning.plan_words import describe_plan

__all__ = ["Plan", "SweepDesign", "describe_design", "describe_plan", "design_sweep", "pilot_rates", "plan"]
