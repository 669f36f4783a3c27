"""Draws: which tokens they are from, and how often each comes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from memlaw_jax.errors import UserError
from memlaw_jax.readout.sampling import Sampling, draw, first_largest, kept_logits

DRAWS = 20_000
LOGITS = np.random.default_rng(0).standard_normal(12).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    terms = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return terms / terms.sum()


@given(
    quarters=st.lists(st.integers(-32, 32), min_size=8, max_size=8),  # exact in float32, and often tied
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 9),
    top_p=st.floats(0.05, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_the_kept_tokens_are_the_smallest_set(
    quarters: list[int], temperature: float, top_k: int | None, top_p: float
) -> None:
    """By brute force: the k largest with their ties; of those, the fewest whose probability reaches p."""
    raw = np.array(quarters, np.float32) / 4
    found = np.asarray(kept_logits(jnp.array(raw), Sampling(temperature=temperature, top_k=top_k, top_p=top_p)))
    kept, warm = np.isfinite(found), raw / np.float32(temperature)
    allowed = warm >= np.sort(warm)[-min(top_k or len(raw), len(raw))]
    assert kept.any() and not (kept & ~allowed).any()
    chances = softmax(np.where(allowed, warm, -np.inf))
    mass, smallest = chances[kept].sum(), chances[kept].min()
    assert chances[~kept].max(initial=0) <= smallest + 1e-6  # the largest are kept
    if top_p == 1:
        assert (kept == allowed).all()
    # float32 sums of chances: 1e-6
    assert mass >= top_p - 1e-6 and (kept.sum() == 1 or mass - smallest < top_p + 1e-6)
    np.testing.assert_allclose(softmax(found[kept]), chances[kept] / mass, atol=1e-6)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.5), Sampling(top_k=4), Sampling(temperature=1.5, top_k=9, top_p=0.8)],
    ids=["plain", "cool", "top-k", "all three"],
)
def test_tokens_come_as_often_as_they_should(sampling: Sampling) -> None:
    """Pearson's chi-square at one in a million; half as warm again, the same draws would be refused."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    drawn = jax.jit(jax.vmap(lambda key: draw(jnp.array(LOGITS), key, sampling)))(keys)
    counts = np.bincount(np.asarray(drawn), minlength=len(LOGITS))

    def statistic(chances: np.ndarray) -> float:
        kept = chances > 0
        assert not counts[~kept].any()
        return float(((counts - DRAWS * chances)[kept] ** 2 / (DRAWS * chances[kept])).sum())

    right = softmax(np.asarray(kept_logits(jnp.array(LOGITS), sampling)))
    wrong = right ** (2 / 3) / (right ** (2 / 3)).sum()
    bound = chi2.ppf(1 - 1e-6, (right > 0).sum() - 1)
    assert statistic(right) < bound < statistic(wrong)


def test_the_first_of_the_largest_is_taken_and_nan_is_no_token() -> None:
    rows = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, -2.0], [0.0, jnp.nan, 1.0]])
    assert first_largest(rows).tolist() == [1, 2, 3]
    assert draw(rows[2], jax.random.key(0), Sampling()) == 3


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": np.inf}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"sampling: {next(iter(wrong))}"):
        Sampling(**wrong)  # type: ignore[arg-type]
