"""Whether some runs were trained badly: residuals that normal noise does not make.

In 199 of 200 simulated sweeps of the base design with 5 % of bad runs (ΔL at 40 to 80 % of what their cell would give)
one stands 7.5 robust standard deviations or more from the least-squares law; with normal noise alone none of 600 sweeps
of the base, noisy and long-context designs has a run beyond 5.96 (`tests/analysis/test_calibration.py`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from memlaw_jax.analysis.law.least_squares import Estimate
from memlaw_jax.analysis.law.problem import PARAMETERS
from memlaw_jax.analysis.law.robust import MAD_TO_SD

FAR = 6.0
# The residuals of a law that goes through nearly all of its runs say nothing about single ones.
FEWEST_SPARE = 8


def outliers_suspected(fit: Estimate, runs: pd.DataFrame) -> bool:
    """Whether a used run lies more than 6 robust standard deviations (of all used runs) from the law."""
    if len(runs) - PARAMETERS < FEWEST_SPARE:
        return False
    miss = runs["loss_initial"] - runs["loss_final"] - fit.predict(runs["rank"], runs["length"])
    size = np.abs(miss.to_numpy())
    return bool(size.max() > FAR * max(MAD_TO_SD * float(np.median(size)), 1e-9))
