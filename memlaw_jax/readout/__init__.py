"""What an adapter recalls: scoring, verification, metrics.

The room is not called `recall` because `memlaw_jax.recall` is the function.
"""

from memlaw_jax.readout.batch import Batch, prepare
from memlaw_jax.readout.metrics import RecallReport
from memlaw_jax.readout.recall import Records, encode, recall
from memlaw_jax.readout.verify import score, verify

__all__ = ["Batch", "RecallReport", "Records", "encode", "prepare", "recall", "score", "verify"]
