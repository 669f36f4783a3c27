"""Objectives: pure functions from per-token losses to token weights."""

from memlaw_jax.objectives.sft import OBJECTIVES, Objective, Sft, weighted_loss
from memlaw_jax.objectives.token_loss import TokenScores, token_scores

__all__ = ["OBJECTIVES", "Objective", "Sft", "TokenScores", "token_scores", "weighted_loss"]
