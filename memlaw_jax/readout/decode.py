"""Free-running decoding with a key/value cache, of many prompts under many adapters at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from memlaw_jax.errors import UserError
from memlaw_jax.models import Adapter, Base, Cache, DecoderConfig, Fresh, advance, head_logits, prefill, remember
from memlaw_jax.models.decoder import Params, head_kernel
from memlaw_jax.models.lora import AdapterWeights
from memlaw_jax.readout.adapters import Adapters, OneOrMany
from memlaw_jax.readout.batch import check_tokens
from memlaw_jax.readout.sampling import Sampling, draw, first_largest
from memlaw_jax.sharding import to_host

DECODE_SLOTS = 16_384  # cache slots of one pass over all its adapters, or one row of each
_MULTIPLE = 8  # widths are rounded up, so that nearby prompts share a compiled program


@overload
def decode(
    base: Base, adapters: Adapter | None, prompts: Sequence[Sequence[int]], *, tokens: int | Sequence[int],
    sampling: Sampling | None = None, stop_ids: Sequence[int] = (),
) -> list[tuple[int, ...]]: ...  # fmt: skip
@overload
def decode(
    base: Base, adapters: Sequence[Adapter], prompts: Sequence[Sequence[int]], *, tokens: int | Sequence[int],
    sampling: Sampling | None = None, stop_ids: Sequence[int] = (),
) -> list[list[tuple[int, ...]]]: ...  # fmt: skip
def decode(
    base: Base,
    adapters: OneOrMany,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int | Sequence[int],
    sampling: Sampling | None = None,
    stop_ids: Sequence[int] = (),
) -> list[Any]:
    """Continues prompts of token ids, greedily or by drawing.

    Args:
      adapters: one, several that share targets and layers (ranks may differ), or None for the base itself.
      tokens: how many to decode, for all prompts or for each.
      sampling: how to draw; None is greedy decoding, which takes the first of the largest logits.
      stop_ids: tokens that end a row; the row ends with the one that did.

    Returns:
      The ids after each prompt; a list of such lists for a sequence of adapters.

    Raises:
      UserError: an adapter that does not fit, or a prompt that is empty, too long or not of this vocabulary.
    """
    group = Adapters.of(base, adapters)
    if not isinstance(tokens, int) and len(tokens) != len(prompts):
        raise UserError(f"tokens has {len(tokens)} numbers for {len(prompts)} prompts; give one for each, or one.")
    counts = np.broadcast_to(np.asarray(tokens, np.int32), len(prompts))
    starts = np.array([len(prompt) for prompt in prompts], np.int32)
    _check(base, prompts, starts, counts)
    texts = np.full((len(prompts), _rounded((starts + counts).max())), base.pad_id, np.int32)
    for row, prompt in zip(texts, prompts, strict=True):
        row[: len(prompt)] = prompt
    shape = len(group.scales), len(prompts)
    found = continue_texts(
        base, group, texts, np.broadcast_to(starts, shape), np.broadcast_to(counts, shape), sampling, stop_ids
    )
    cut = [
        [_until_stop(row[a:b], stop_ids) for row, a, b in zip(own, starts, starts + counts, strict=True)]
        for own in found
    ]
    return cut if isinstance(adapters, Sequence) else cut[0]


def continue_texts(
    base: Base,
    group: Adapters,
    texts: Int[np.ndarray, "S C"],
    starts: Int[np.ndarray, "N S"],
    counts: Int[np.ndarray, "N S"],
    sampling: Sampling | None = None,
    stop_ids: Sequence[int] = (),
) -> Int[np.ndarray, "N S C"]:
    """Right-padded texts, each continued under each adapter from its `starts` by `counts` tokens.

    What stands in a row after those, or after a stop, is of no meaning.
    """
    check_tokens(base, texts)
    result = np.repeat(texts[None], len(starts), axis=0)
    (rows,) = np.nonzero(counts.max(axis=0))
    if not rows.size:
        return result
    lanes, slots = len(starts), texts.shape[1]
    width = min(slots, _rounded(starts[:, rows].max()))
    most = max(1, DECODE_SLOTS // (lanes * slots))
    # a power of two, so that adapters with other numbers of rows to decode share a compiled program
    chunk = min(most, 1 << (len(rows) - 1).bit_length())
    fixed = None if sampling is None else dataclasses.replace(sampling, seed=0)
    key = jax.random.key(0 if sampling is None else sampling.seed)
    weights, stops, params = group.everywhere(base), jnp.asarray(stop_ids, jnp.int32), base.near()
    for first in range(0, len(rows), chunk):
        own = rows[first : first + chunk]
        picked = np.pad(own, (0, chunk - len(own)), mode="edge")
        wanted = counts[:, picked] * (np.arange(chunk) < len(own))  # what fills the last chunk wants nothing
        plan = starts[:, picked], wanted, picked
        found = _continue(base.config, fixed, width, params, weights, texts[picked], *plan, key, stops)
        result[:, own] = to_host(found)[:, : len(own)]
    return result


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _continue(
    config: DecoderConfig,
    sampling: Sampling | None,
    width: int,
    params: Params,
    lora: AdapterWeights,
    texts: Int[Array, "B C"],
    starts: Int[Array, "N B"],
    counts: Int[Array, "N B"],
    rows: Int[Array, " B"],
    key: PRNGKeyArray,
    stops: Int[Array, " M"],
) -> Int[Array, "N B C"]:
    """`continue_texts` of one chunk: the first `width` tokens at once, then one a step until every row is done."""
    lanes, (batch, slots) = len(starts), texts.shape
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)

    def choose(hidden: Float[Array, "B D"], step: Int[Array, ""] | int) -> Int[Array, " B"]:
        logits = head_logits(head_kernel(config, params), hidden)
        if sampling is None:
            return first_largest(logits)
        return jax.vmap(lambda row, key: draw(row, jax.random.fold_in(key, step), sampling))(logits, keys)

    def begin(lora: AdapterWeights, starts: Int[Array, " B"]) -> tuple[Int[Array, " B"], Cache]:
        hidden, cache = prefill(config, params, texts[:, :width], slots, lora)
        return choose(jnp.take_along_axis(hidden, starts[:, None, None] - 1, axis=1)[:, 0], 0), cache

    def go_on(state: Any) -> Any:
        step, token, live, result, cache = state
        positions = starts + step

        def one(lora: AdapterWeights, cache: Cache, token: Array, position: Array) -> tuple[Int[Array, " B"], Fresh]:
            hidden, fresh = advance(config, params, cache, token, position, lora)
            return choose(hidden, step + 1), fresh

        # Layers come before adapters, or the scan over them would transpose the cache every token.
        token, fresh = jax.vmap(one, in_axes=(1, 1, 0, 0), out_axes=(0, 1))(lora, cache, token, positions)
        cache, result = remember(cache, fresh, positions), written(result, token, positions + 1)
        return step + 1, token, alive(live, token, step + 1), result, cache

    def alive(live: Bool[Array, "N B"], token: Int[Array, "N B"], step: Int[Array, ""] | int) -> Bool[Array, "N B"]:
        return live & (step + 1 < counts) & ~(token[..., None] == stops).any(axis=-1)

    def written(result: Int[Array, "N B C"], token: Int[Array, "N B"], slots: Int[Array, "N B"]) -> Int[Array, "N B C"]:
        return result.at[jnp.arange(lanes)[:, None], jnp.arange(batch), slots].set(token)

    token, cache = jax.vmap(begin, in_axes=(1, 0), out_axes=(0, 1))(lora, starts)
    result = written(jnp.broadcast_to(texts, (lanes, batch, slots)), token, starts)
    state = 0, token, alive(jnp.ones_like(token, bool), token, 0), result, cache
    return jax.lax.while_loop(lambda state: state[2].any(), go_on, state)[3]


def _rounded(width: int) -> int:
    return int(-(-width // _MULTIPLE) * _MULTIPLE)


def _until_stop(ids: Int[np.ndarray, " A"], stop_ids: Sequence[int]) -> tuple[int, ...]:
    stops = np.isin(ids, np.asarray(stop_ids, np.int32))
    return tuple(ids[: stops.argmax() + 1 if stops.any() else None].tolist())


def _check(base: Base, prompts: Sequence[Sequence[int]], starts: np.ndarray, counts: np.ndarray) -> None:
    if not len(prompts):
        raise UserError("there is no prompt to decode from; give at least one.")
    if counts.min() < 1:
        raise UserError(f"tokens is {counts.min()}; decode at least 1.")
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {row} is empty; nothing could predict its first token.")
    total, row = int((starts + counts).max()), int((starts + counts).argmax())
    if total > base.config.max_positions:
        raise UserError(
            f"prompt {row} with its {counts[row]} tokens to decode has {total}, more than the model's "
            f"{base.config.max_positions}; shorten one of them."
        )
