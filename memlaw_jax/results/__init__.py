"""Finished cells: their record, its schema, and the append-only store."""

from memlaw_jax.results.environment import commit, now, versions
from memlaw_jax.results.record import FIELDS, SCHEMA, cell_id
from memlaw_jax.results.store import ResultStore

__all__ = ["FIELDS", "SCHEMA", "ResultStore", "cell_id", "commit", "now", "versions"]
