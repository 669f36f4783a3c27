"""The largest number of lanes that fits, with few compilations."""

from __future__ import annotations

import math
from collections.abc import Callable

from memlaw_jax.check.compiled import Step
from memlaw_jax.check.lower import PoolPlan

MOST = 6  # compilations; of a large model each takes a minute or more


def largest_fit(step: Step, examine: Callable[[PoolPlan], Step]) -> Step | None:
    """The step with the most lanes of a chip that fit, and no more than there are cells; None if not even one does.

    What lanes need grows about evenly with their number, so each try reckons the next from the two before it. It ends
    when one lane of a chip more would not fit, or after `MOST` tries with the best that was found.
    """
    ways = step.plan.placement.ways
    most = step.plan.placement.fit(len(step.plan.cells)) // ways
    tried = [step]
    while len(tried) <= MOST:
        low = max((one.plan.lanes_a_chip for one in tried if one.fits), default=0)
        high = min((one.plan.lanes_a_chip for one in tried if not one.fits), default=most + 1)
        if high - low <= 1:
            break
        guess = min(high - 1, max(low + 1, _reckoned(tried[-2:])))
        tried.append(examine(step.plan.with_lanes(guess * ways)))
    return max((one for one in tried if one.fits), key=lambda one: one.plan.lanes_a_chip, default=None)


def _reckoned(tried: list[Step]) -> int:
    """Lanes of a chip for which there is room if need is a straight line through the last two steps, or zero."""
    last, before = tried[-1], tried[0]
    count, need = last.plan.lanes_a_chip, last.adapters + last.temporaries
    room = last.usable - last.reserve - last.weights - last.features
    each = need / count
    if before is not last and before.plan.lanes_a_chip != count:
        line = (need - before.adapters - before.temporaries) / (count - before.plan.lanes_a_chip)
        each = line if line > 0 else each
    return count + math.floor((room - need) / each) if each else count
