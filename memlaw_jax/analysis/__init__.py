"""Analysis of finished sweeps: the memory law, its uncertainty and figures, comparisons. Never JAX.

frame = read_frame("runs/demo")
law = fit_law(frame)
print(describe(law))
draw_all(frame, law, "runs/demo/figures")
found = compare("runs/demo", "runs/other")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memlaw_jax.analysis.compare import Comparison, compare
from memlaw_jax.analysis.frame import read_frame
from memlaw_jax.analysis.law import Law, fit_law
from memlaw_jax.analysis.run import compare_and_draw, fit_and_draw
from memlaw_jax.analysis.words import describe

if TYPE_CHECKING:
    from memlaw_jax.analysis.figures import draw_all

__all__ = [
    "Comparison",
    "Law",
    "compare",
    "compare_and_draw",
    "describe",
    "draw_all",
    "fit_and_draw",
    "fit_law",
    "read_frame",
]


def __getattr__(name: str) -> Any:
    # Matplotlib takes longer to import than a law to fit.
    if name == "draw_all":
        from memlaw_jax.analysis.figures import draw_all

        return draw_all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
