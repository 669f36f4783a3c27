"""Figures of a sweep and its law, as PNG (150 dpi) and SVG. Matplotlib is imported here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterable

from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.figures.agreement import draw_agreement
from memlaw_jax.analysis.figures.capacity import draw_capacity
from memlaw_jax.analysis.figures.collapse import draw_collapse
from memlaw_jax.analysis.figures.comparison import draw_comparison
from memlaw_jax.analysis.figures.curves import draw_curves
from memlaw_jax.analysis.figures.decoupling import draw_decoupling
from memlaw_jax.analysis.figures.density import draw_density, draw_exponents
from memlaw_jax.analysis.figures.ellipse import draw_ellipse
from memlaw_jax.analysis.figures.extrapolation import draw_extrapolation
from memlaw_jax.analysis.figures.failing import draw_failures, draw_order
from memlaw_jax.analysis.figures.heat import METRICS, draw_heat
from memlaw_jax.analysis.figures.methods import draw_methods
from memlaw_jax.analysis.figures.microscope import draw_microscope
from memlaw_jax.analysis.figures.positions import draw_positions
from memlaw_jax.analysis.figures.probability_grid import draw_probability_grid
from memlaw_jax.analysis.figures.profiles import draw_profiles
from memlaw_jax.analysis.figures.recall import draw_recall
from memlaw_jax.analysis.figures.recall_vs_p import draw_recall_vs_p
from memlaw_jax.analysis.figures.residuals import draw_residuals
from memlaw_jax.analysis.figures.rivals import draw_rivals
from memlaw_jax.analysis.figures.rule import draw_rule
from memlaw_jax.analysis.figures.scenarios import draw_scenarios
from memlaw_jax.analysis.figures.style import save
from memlaw_jax.analysis.figures.training_curves import draw_training_curves
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law.law import Law

__all__ = [
    "draw_agreement",
    "draw_all",
    "draw_capacity",
    "draw_collapse",
    "draw_comparison",
    "draw_curves",
    "draw_decoupling",
    "draw_density",
    "draw_ellipse",
    "draw_exponents",
    "draw_extrapolation",
    "draw_failures",
    "draw_heat",
    "draw_methods",
    "draw_microscope",
    "draw_order",
    "draw_positions",
    "draw_probability_grid",
    "draw_profiles",
    "draw_recall",
    "draw_recall_vs_p",
    "draw_residuals",
    "draw_rivals",
    "draw_rule",
    "draw_scenarios",
    "draw_sweep",
    "draw_training_curves",
    "save",
]


def draw_all(
    frame: Source | Iterable[Source], law: Law, out_dir: str | os.PathLike[str], ln_vocab: float | None = None
) -> list[epath.Path]:
    """Draw every figure that these results allow, into a folder; returns the paths written.

    `law.{png,svg}`: ΔL against rank and against length with the fitted lines; `predicted_vs_measured`; `collapse`,
    `residuals` and `extrapolation`; `ellipse`, `profiles` and `rivals` where the law has draws, profiles and rivals;
    and, over the grid rank × length, `heat_final_loss`, `heat_exact_match`, `heat_token_accuracy`,
    `heat_token_accuracy_free` where the columns exist. `frame` is what the law was fitted to (runs of other methods are
    passed over); `ln_vocab` (nats) marks the loss of a uniform guess.
    """
    frame = read_frame(frame)
    if law.method is not None and "method" in frame.columns:
        lost = [run for run in frame.attrs["diverged"] if run.get("method", law.method) == law.method]
        frame = frame[frame["method"] == law.method]
        frame.attrs["diverged"] = tuple(lost)
    place = files.folder(out_dir)
    written = save(draw_curves(frame, law, ln_vocab), place, "law")
    written += save(draw_agreement(frame, law), place, "predicted_vs_measured")
    written += save(draw_collapse(law), place, "collapse")
    written += save(draw_residuals(law), place, "residuals")
    written += save(draw_extrapolation(law), place, "extrapolation")
    for there, draw in ((law.draws, draw_ellipse), (law.profiles, draw_profiles), (law.rivals, draw_rivals)):
        if there:
            written += save(draw(law), place, draw.__name__.removeprefix("draw_"))
    for metric in METRICS:
        if metric.column in frame.columns and frame[metric.column].notna().any():
            written += save(draw_heat(frame, metric, ln_vocab), place, f"heat_{metric.name}")
    return written


def draw_sweep(frame: Source | Iterable[Source], out_dir: str | os.PathLike[str]) -> list[epath.Path]:
    """Draw what needs no law, `recall.{png,svg}`, into a folder; one for each method where there are several.

    Nothing where every run diverged.
    """
    frame, place = read_frame(frame), files.folder(out_dir)
    methods = list(frame["method"].unique()) if "method" in frame.columns else []
    if len(methods) < 2:
        return save(draw_recall(frame), place, "recall") if len(frame) else []
    written = []
    for method in methods:
        written += save(draw_recall(frame[frame["method"] == method]), place, f"recall_{method}".replace("-", "_"))
    return written
