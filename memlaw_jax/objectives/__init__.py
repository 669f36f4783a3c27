"""Objectives: pure functions from per-token losses to token weights."""

from memlaw_jax.objectives.memft_ot import MemFTOT
from memlaw_jax.objectives.memft_sw import MemFTSW, Window
from memlaw_jax.objectives.objective import Objective, weighted_loss
from memlaw_jax.objectives.sft import Sft
from memlaw_jax.objectives.token_loss import TokenScores, token_scores

OBJECTIVES: dict[str, type[Sft] | type[MemFTOT] | type[MemFTSW]] = {kind.name: kind for kind in (Sft, MemFTOT, MemFTSW)}

__all__ = [
    "OBJECTIVES",
    "MemFTOT",
    "MemFTSW",
    "Objective",
    "Sft",
    "TokenScores",
    "Window",
    "token_scores",
    "weighted_loss",
]
