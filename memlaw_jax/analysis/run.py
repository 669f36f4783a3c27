"""From result files to a law and its pictures: what `memlaw fit` does."""

from __future__ import annotations

import os
from collections.abc import Iterable

from etils import epath

from memlaw_jax.analysis import files
from memlaw_jax.analysis.frame import Source, read_frame
from memlaw_jax.analysis.law import Law, fit_law


def fit_and_draw(
    paths: Source | Iterable[Source],
    out: str | os.PathLike[str],
    filter: str = "predicted",
    ln_vocab: float | None = None,
    *,
    method: str | None = None,
    bootstrap: int = 400,
    seed: int = 0,
) -> tuple[Law, list[epath.Path]]:
    """Fit the law to results and write `law.json`, `fit_card.json` and the figures; returns it and what was written.

    `ln_vocab` (nats) marks the loss of a uniform guess in the figures. The other arguments are those of `fit_law`.
    Raises `UserError` for a user's mistake, and then writes nothing.
    """
    from memlaw_jax.analysis.figures import draw_all

    frame = read_frame(paths)
    law = fit_law(frame, filter=filter, method=method, bootstrap=bootstrap, seed=seed)
    place = files.folder(out)
    return law, [*law.save(place), *draw_all(frame, law, place, ln_vocab=ln_vocab)]
