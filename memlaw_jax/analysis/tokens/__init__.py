"""Single tokens: the phase transition at p = ½, where recall fails, and what stays below."""

from memlaw_jax.analysis.tokens.microscope import Microscope, microscope
from memlaw_jax.analysis.tokens.tokens import Tokens, read_tokens
from memlaw_jax.analysis.tokens.words import describe_microscope

__all__ = ["Microscope", "Tokens", "describe_microscope", "microscope", "read_tokens"]
