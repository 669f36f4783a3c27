"""Teacher-forced verification of many adapters at once (DESIGN.md, idea 9).

Greedy decoding reproduces a target exactly when every teacher-forced arg-max is right, and first fails where the
first one is wrong; so exact match needs no decoding.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from memlaw_jax.models import Cut, DecoderConfig, Dropout, Upper, run_upper, scaled, upper_shardings
from memlaw_jax.models.decoder import Remat
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.objectives import TokenScores, token_scores
from memlaw_jax.readout.batch import Batch, DataSets
from memlaw_jax.sharding import RULES, gathered, over, to_host

VERIFY_TOKENS = 8192  # tokens of one pass over all its adapters, or one sample of each, which bounds its activations


def score(
    config: DecoderConfig,
    cut: Cut,
    upper: Upper,
    batch: Batch,
    weights: AdapterWeights,
    scale: Float[Array, ""] | float,
    dropout: Dropout | None = None,
    remat: Remat = "none",
) -> TokenScores:
    """Scores of a batch's answer slots under one adapter; what training differentiates and verification reports."""
    lora = scaled(weights, scale)
    hidden = run_upper(config, upper, cut, batch.features, batch.positions, lora, dropout=dropout, remat=remat)
    answers = jnp.take_along_axis(hidden, batch.answer_index[..., None], axis=1)
    return token_scores(answers, gathered(upper.head, 0, config.hidden_size), batch.labels)


def verify(
    config: DecoderConfig,
    cut: Cut,
    upper: Upper,
    data: DataSets,
    weights: AdapterWeights,
    scales: Float[Array, " N"],
    chosen: Int[Array, " N"] | None = None,
    samples: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[np.ndarray, "N S A"], Bool[np.ndarray, "N S A"]]:
    """Nats and arg-max right of every answer slot, under each of N stacked adapters.

    Args:
      chosen: the data set of each adapter; None is the first of them for all.
      samples: S, where not all samples are wanted.
      mesh: what the adapters are spread over.
    """
    most, width = data.features.hidden.shape[:2]
    lanes, samples = scales.shape[0], most if samples is None else samples
    chosen = jnp.zeros(lanes, jnp.int32) if chosen is None else chosen
    chunk = max(1, min(most, VERIFY_TOKENS // (lanes * width)))
    nats, right = [], []
    for start in range(0, samples, chunk):
        rows = np.arange(start, start + chunk)
        rows = np.where(rows < samples, rows, -1).astype(np.int32)
        scores = to_host(_verify_rows(config, cut, mesh, upper, data, weights, scales, chosen, rows))
        keep = min(chunk, samples - start)
        nats.append(scores.nats[:, :keep])
        right.append(scores.right[:, :keep])
    return np.concatenate(nats, axis=1), np.concatenate(right, axis=1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _verify_rows(
    config: DecoderConfig,
    cut: Cut,
    mesh: Mesh | None,
    upper: Upper,
    data: DataSets,
    weights: AdapterWeights,
    scales: Float[Array, " N"],
    chosen: Int[Array, " N"],
    rows: Int[Array, " B"],
) -> TokenScores:
    def run(upper: Upper, data: DataSets, weights: Any, scales: Array, chosen: Array, rows: Array) -> TokenScores:
        def one(lora: AdapterWeights, scale: Float[Array, ""], index: Int[Array, ""]) -> TokenScores:
            return score(config, cut, upper, data.pick(index, rows), lora, scale)

        return jax.vmap(one)(weights, scales, chosen)

    arguments = upper, data, weights, scales, chosen, rows
    if mesh is None:
        return run(*arguments)
    lanes, whole = PartitionSpec(RULES["lanes"]), PartitionSpec()
    ins = upper_shardings(mesh, upper), whole, lanes, lanes, lanes, whole
    return over(mesh, run, ins, lanes, RULES["lanes"])(*arguments)
