"""All pictures and tables of the microscope."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.figures import style
from memlaw_jax.analysis.figures.decoupling import draw_decoupling
from memlaw_jax.analysis.figures.failing import draw_failures, draw_order
from memlaw_jax.analysis.figures.positions import draw_positions
from memlaw_jax.analysis.figures.recall_vs_p import draw_recall_vs_p
from memlaw_jax.analysis.frame import Source
from memlaw_jax.analysis.tokens.microscope import Microscope, microscope
from memlaw_jax.analysis.tokens.tokens import Tokens, read_tokens


def draw_microscope(
    source: Source | Iterable[Source] | Tokens,
    out_dir: str | os.PathLike[str],
    threshold: float = 0.5,
    found: Microscope | None = None,
) -> list[epath.Path]:
    """Write what a results folder's tokens say into a folder; returns the paths written.

    `microscope.json`, `stubborn.csv`, `stubborn_by_rank.csv`, `stubborn.md`; as PNG and SVG `recall_vs_p`, and
    `subthreshold_vs_failure` where any token is below the threshold; and for each method (named in the file where there
    are several) `p_by_position`, `decoupling`, and `failure_positions` where a sample fails. `found` saves looking
    twice.
    """
    tokens = read_tokens(source)
    found = microscope(tokens, threshold) if found is None else found
    place = files.folder(out_dir)
    written = found.save(place)
    written += style.save(draw_recall_vs_p(found), place, "recall_vs_p")
    if found.samples["first_below"].notna().any():
        written += style.save(draw_order(found), place, "subthreshold_vs_failure")
    for method in tokens.methods:
        name = f"_{re.sub(r'[^A-Za-z0-9]+', '_', method)}" if len(tokens.methods) > 1 else ""
        written += style.save(draw_positions(tokens, method, threshold=found.threshold), place, f"p_by_position{name}")
        written += style.save(draw_decoupling(found, method), place, f"decoupling{name}")
        mine = found.samples[found.samples["method"] == method]
        if mine["first_failure"].notna().any():
            written += style.save(draw_failures(found, method), place, f"failure_positions{name}")
    return written
