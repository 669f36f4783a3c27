"""Analysis of finished sweeps: the memory law, its uncertainty and rivals, capacity, plans, comparisons. Never JAX.

frame = read_frame("runs/demo")
law = fit_law(frame)
print(describe(law))
write_report("runs/demo", "runs/demo/report.html")
print(describe_capacity(measure_capacity(frame)))
print(describe_plan(plan(law, tokens=20_000, recall=0.99)))
print(describe_design(design_sweep(law, width=0.1)))
found = compare("runs/demo", "runs/other")
print(describe_microscope(microscope("runs/demo")))
print(describe_methods(compare_methods(["runs/seed0", "runs/seed1", "runs/seed2"])))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memlaw_jax.analysis.capacity import Capacity, describe_capacity, measure_capacity
from memlaw_jax.analysis.comparison import (
    Comparison,
    Methods,
    best_rates,
    compare,
    compare_methods,
    describe_methods,
    describe_rates,
    methods_table,
)
from memlaw_jax.analysis.curves import read_curves
from memlaw_jax.analysis.frame import read_frame
from memlaw_jax.analysis.law import Law, PooledLaw, SharedExponents, describe, fit_law, pool, share_exponents
from memlaw_jax.analysis.planning import (
    Plan,
    SweepDesign,
    describe_design,
    describe_plan,
    design_sweep,
    pilot_rates,
    plan,
)
from memlaw_jax.analysis.run import compare_and_draw, fit_and_draw, look_and_draw
from memlaw_jax.analysis.tokens import Microscope, Tokens, describe_microscope, microscope, read_tokens

if TYPE_CHECKING:
    from memlaw_jax.analysis.figures import draw_all, draw_methods, draw_microscope
    from memlaw_jax.analysis.report import write_report

__all__ = [
    "Capacity",
    "Comparison",
    "Law",
    "Methods",
    "Microscope",
    "Plan",
    "PooledLaw",
    "SharedExponents",
    "SweepDesign",
    "Tokens",
    "best_rates",
    "compare",
    "compare_and_draw",
    "compare_methods",
    "describe",
    "describe_capacity",
    "describe_design",
    "describe_methods",
    "describe_microscope",
    "describe_plan",
    "describe_rates",
    "design_sweep",
    "draw_all",
    "draw_methods",
    "draw_microscope",
    "fit_and_draw",
    "fit_law",
    "look_and_draw",
    "measure_capacity",
    "methods_table",
    "microscope",
    "pilot_rates",
    "plan",
    "pool",
    "read_curves",
    "read_frame",
    "read_tokens",
    "share_exponents",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Matplotlib takes longer to import than a law to fit.
    if name in ("draw_all", "draw_methods", "draw_microscope"):
        from memlaw_jax.analysis import figures

        return getattr(figures, name)
    if name == "write_report":
        from memlaw_jax.analysis.report import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
