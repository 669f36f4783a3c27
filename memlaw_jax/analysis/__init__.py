"""Analysis of finished sweeps: the memory law, its uncertainty and figures, comparisons. Never JAX.

frame = read_frame("runs/demo")
law = fit_law(frame)
print(describe(law))
draw_all(frame, law, "runs/demo/figures")
found = compare("runs/demo", "runs/other")
seen = microscope("runs/demo")
print(describe_microscope(seen))
draw_microscope("runs/demo", "runs/demo/figures")
methods = compare_methods(["runs/seed0", "runs/seed1", "runs/seed2"])
print(describe_methods(methods))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memlaw_jax.analysis.compare import Comparison, compare
from memlaw_jax.analysis.fit import fit_law
from memlaw_jax.analysis.frame import read_frame
from memlaw_jax.analysis.law import Law
from memlaw_jax.analysis.methods import Methods, best_rates, compare_methods
from memlaw_jax.analysis.methods_words import describe_methods, describe_rates, methods_table
from memlaw_jax.analysis.microscope import Microscope, microscope
from memlaw_jax.analysis.microscope_words import describe_microscope
from memlaw_jax.analysis.run import compare_and_draw, fit_and_draw, look_and_draw
from memlaw_jax.analysis.tokens import Tokens, read_tokens
from memlaw_jax.analysis.words import describe

if TYPE_CHECKING:
    from memlaw_jax.analysis.figures import draw_all, draw_methods, draw_microscope

__all__ = [
    "Comparison",
    "Law",
    "Methods",
    "Microscope",
    "Tokens",
    "best_rates",
    "compare",
    "compare_and_draw",
    "compare_methods",
    "describe",
    "describe_methods",
    "describe_microscope",
    "describe_rates",
    "draw_all",
    "draw_methods",
    "draw_microscope",
    "fit_and_draw",
    "fit_law",
    "look_and_draw",
    "methods_table",
    "microscope",
    "read_frame",
    "read_tokens",
]


def __getattr__(name: str) -> Any:
    # Matplotlib takes longer to import than a law to fit.
    if name in ("draw_all", "draw_methods", "draw_microscope"):
        from memlaw_jax.analysis import figures

        return getattr(figures, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
