"""From result files to a law, a comparison or a look at single tokens, with pictures: what the commands do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

import pandas as pd
from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.capacity import measure_capacity
from memlaw_jax.analysis.comparison.compare import Comparison, compare
from memlaw_jax.analysis.comparison.compare_words import describe_comparison
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law.fit import fit_law
from memlaw_jax.analysis.law.law import Law
from memlaw_jax.analysis.law.words import describe
from memlaw_jax.analysis.tokens.microscope import Microscope, microscope
from memlaw_jax.analysis.tokens.tokens import read_tokens
from memlaw_jax.analysis.tokens.words import describe_microscope


def fit_and_draw(
    paths: Source | Iterable[Source],
    out: str | os.PathLike[str],
    filter: str = "predicted",
    ln_vocab: float | None = None,
    *,
    method: str | None = None,
    loss: str = "squared",
    bootstrap: int = 400,
    seed: int = 0,
) -> tuple[Law, list[epath.Path], str]:
    """Fit the law to results and write `law.json`, `fit_card.json`, `capacity.{csv,json,md}` and the figures.

    `ln_vocab` (nats) is the loss of a uniform guess, which the figures mark; None takes it from the records. The other
    arguments are those of `fit_law`. Returns the law, the files written, and what was found in plain words.
    Raises `UserError` for a user's mistake, and then writes nothing.
    """
    from memlaw_jax.analysis.figures import draw_all, draw_capacity, save

    frame = read_frame(paths)
    law = fit_law(frame, filter=filter, method=method, loss=loss, bootstrap=bootstrap, seed=seed)
    ln_vocab = uniform_loss(frame) if ln_vocab is None else ln_vocab
    place = files.folder(out)
    held = measure_capacity(frame, law, bootstrap=bootstrap, seed=seed)
    written = [*law.save(place), *held.save(place), *draw_all(frame, law, place, ln_vocab=ln_vocab)]
    written += save(draw_capacity(held), place, "capacity")
    return law, written, describe(law, ln_vocab)


def compare_and_draw(
    a: Source | Iterable[Source], b: Source | Iterable[Source], out: str | os.PathLike[str], **options: Any
) -> tuple[Comparison, list[epath.Path], str]:
    """Compare two result sets and write `compare.{csv,json,md,png,svg}`; `options` are those of `compare`.

    Returns the comparison, the files written, and what was found in plain words. Raises `UserError` for a user's
    mistake, and then writes nothing.
    """
    from memlaw_jax.analysis.figures import draw_comparison, save

    found = compare(a, b, **options)
    place = files.folder(out)
    written = [*found.save(place), *save(draw_comparison(found), place, "compare")]
    return found, written, describe_comparison(found)


def look_and_draw(
    paths: Source | Iterable[Source], out: str | os.PathLike[str], threshold: float = 0.5
) -> tuple[Microscope, list[epath.Path], str]:
    """Put the tokens of results folders under the microscope and write its tables and figures (`draw_microscope`).

    Returns what was found, the files written, and the same in plain words. Raises `UserError` for a user's mistake, and
    then writes nothing.
    """
    from memlaw_jax.analysis.figures import draw_microscope

    tokens = read_tokens(paths)
    found = microscope(tokens, threshold)
    return found, draw_microscope(tokens, out, threshold, found), describe_microscope(found)


def uniform_loss(frame: pd.DataFrame) -> float | None:
    """ln V in nats, where all rows name one `vocab_size`."""
    if "vocab_size" not in frame:
        return None
    sizes = frame["vocab_size"].dropna().unique()
    return math.log(sizes[0]) if len(sizes) == 1 else None
