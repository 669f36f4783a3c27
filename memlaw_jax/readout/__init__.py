"""What an adapter recalls: verification, decoding, metrics.

The room is not called `recall` because `memlaw_jax.recall` is the function.
"""

from memlaw_jax.readout.batch import Batch, DataSets, features_of, prepare
from memlaw_jax.readout.decode import decode
from memlaw_jax.readout.free_run import free_run
from memlaw_jax.readout.metrics import FreeRun, RecallReport
from memlaw_jax.readout.recall import Records, encode, recall
from memlaw_jax.readout.sampling import Sampling
from memlaw_jax.readout.verify import score, verify

__all__ = [
    "Batch",
    "DataSets",
    "FreeRun",
    "RecallReport",
    "Records",
    "Sampling",
    "decode",
    "encode",
    "features_of",
    "free_run",
    "prepare",
    "recall",
    "score",
    "verify",
]
