"""Two result sets side by side, and which objective wins."""

from memlaw_jax.analysis.comparison.compare import Comparison, compare
from memlaw_jax.analysis.comparison.methods import Methods, best_rates, compare_methods
from memlaw_jax.analysis.comparison.methods_words import describe_methods, describe_rates, methods_table

__all__ = [
    "Comparison",
    "Methods",
    "best_rates",
    "compare",
    "compare_methods",
    "describe_methods",
    "describe_rates",
    "methods_table",
]
