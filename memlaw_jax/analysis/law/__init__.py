"""The memory law: which cells, which loss, how sure, and what its rivals make of the same cells."""

from memlaw_jax.analysis.law.fit import fit_law
from memlaw_jax.analysis.law.law import CellFit, Flags, Law
from memlaw_jax.analysis.law.pooled import PooledLaw, SharedExponents, pool, share_exponents
from memlaw_jax.analysis.law.words import describe

__all__ = ["CellFit", "Flags", "Law", "PooledLaw", "SharedExponents", "describe", "fit_law", "pool", "share_exponents"]
