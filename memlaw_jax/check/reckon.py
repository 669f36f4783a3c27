"""Memory and communication of a step from shapes alone, for chips whose compiler is not here."""

from __future__ import annotations

from memlaw_jax.check.collectives import Collective
from memlaw_jax.check.lower import PoolPlan, bytes_a_chip
from memlaw_jax.models.base import DTYPES
from memlaw_jax.models.decoder import Remat
from memlaw_jax.objectives.token_loss import CHUNK_TOKENS_ELSEWHERE
from memlaw_jax.training.memory import kept_bytes


def reckoned_temporaries(plan: PoolPlan, remat: Remat) -> int:
    """Bytes a chip that a step holds besides its arguments, about: what the backward pass keeps, a chunk's logits and
    their gradient, and the weights that are gathered for one block and the head."""
    config, mesh = plan.base.config, plan.placement.mesh.shape
    kept = kept_bytes(config, plan.cut, plan.base.dtype, plan.tokens_a_chip, remat) // mesh["tensor"]
    logits = 2 * 4 * CHUNK_TOKENS_ELSEWHERE * config.vocab_size // mesh["tensor"]
    gathered = 0
    if mesh["fsdp"] > 1:
        gathered = (_block(plan) + bytes_a_chip(plan.upper.head)) * mesh["fsdp"]
    return kept + logits + gathered


def reckoned_collectives(plan: PoolPlan, remat: Remat) -> list[Collective]:
    """What a step sends in rings: weights along `fsdp`, gradients along `data`, activations along `tensor`."""
    mesh, blocks = plan.placement.mesh.shape, _blocks(plan)
    found = []
    if (parts := mesh["fsdp"]) > 1:
        weights = 2 * bytes_a_chip(plan.upper.segments) + bytes_a_chip(plan.upper.head)
        found.append(Collective("all-gather", ("fsdp",), False, 2 * 7 * blocks + 1, (parts - 1) * weights))
    if (parts := mesh["data"]) > 1:
        weights = bytes_a_chip(plan.arguments(plan.program(remat))[0].weights)
        found.append(Collective("all-reduce", ("data",), False, 1, 2 * (parts - 1) / parts * weights))
    if (parts := mesh["tensor"]) > 1:
        width = plan.base.config.hidden_size * DTYPES[plan.base.dtype](0).dtype.itemsize
        sums = blocks * (6 if remat == "blocks" else 4)
        sent = 2 * (parts - 1) / parts * sums * plan.tokens_a_chip * width
        found.append(Collective("all-reduce", ("tensor",), False, sums, sent))
    return found


def _blocks(plan: PoolPlan) -> int:
    return sum(segment.stop - segment.start for segment in plan.cut.segments)


def _block(plan: PoolPlan) -> int:
    return bytes_a_chip(plan.upper.segments) // max(1, _blocks(plan))
