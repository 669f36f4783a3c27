"""How an adapter is optimised: AdamW, linear decay, a gradient-norm clip of its own."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.settings import Count, settings
from memlaw_jax.training.order import Curriculum, Order

State = Literal["float32", "bfloat16"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


@settings
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019) with the release's constants (PAPER.md, section 2) as defaults.

    Attributes:
      learning_rate: peak rate, at the first step; no warm-up.
      steps: optimiser steps; give these or `epochs`.
      epochs: passes over the samples.
      batch_size: samples a step; None is all of them.
      schedule: `linear` decays to 0 at the last step, `constant` does not decay.
      clip: largest norm of one adapter's gradient; None for no clip.
      state: dtype of the adapter and its moments. `bfloat16` repeats the release's arithmetic (`training.adamw`).
    """

    label: ClassVar[str] = "optim"

    learning_rate: Positive = 1e-2
    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    schedule: Literal["linear", "constant"] = "linear"
    clip: Positive | None = 1.0
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    state: State = "float32"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UserError(f"optim has steps {self.steps} and epochs {self.epochs}; give exactly one of them.")

    @property
    def compiled(self) -> OptimConfig:
        """Without what is an argument of the compiled step, so that another rate or length needs no other program."""
        return dataclasses.replace(self, learning_rate=1.0, steps=1, epochs=None, batch_size=None)

    def batch(self, samples: int) -> int:
        """Samples a step, of a data set of `samples`."""
        return samples if self.batch_size is None else min(self.batch_size, samples)

    def total_steps(self, samples: int, curriculum: Curriculum | None = None) -> int:
        """Optimiser steps on a data set of `samples`; a last, smaller batch of an epoch is a step too."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return Order(seed=0, samples=samples, batch=self.batch(samples), curriculum=curriculum).steps(self.epochs)

    def describe(self) -> str:
        """The optimiser in one line, as records state it; rate, schedule, steps and batch have fields of their own."""
        return (
            f"adamw beta1={self.beta1:g} beta2={self.beta2:g} eps={self.eps:g} weight_decay={self.weight_decay:g} "
            f"clip={'none' if self.clip is None else f'{self.clip:g}'}"
        )

    def rate(self, peak: Float[Array, ""], step: Int[Array, ""], total: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate of step 0, 1, … of `total`."""
        return peak * (1 - step / total) if self.schedule == "linear" else peak * jnp.ones(())
