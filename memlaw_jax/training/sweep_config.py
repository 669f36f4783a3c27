"""The settings of a sweep: the YAML of `memlaw sweep`, checked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pydantic
from pydantic import Field

from memlaw_jax.errors import UserError
from memlaw_jax.mesh import MeshConfig
from memlaw_jax.models import LoraConfig
from memlaw_jax.models.decoder import Remat
from memlaw_jax.settings import Count, PathText, Seed, settings
from memlaw_jax.tasks import Task, make_task
from memlaw_jax.training.cell import Skip, Stop
from memlaw_jax.training.lanes import LANES, STEPS_PER_DISPATCH
from memlaw_jax.training.method import METHODS, Method, make_method
from memlaw_jax.training.optim import OptimConfig, Positive
from memlaw_jax.training.placement import Parallelism, Placement
from memlaw_jax.training.protocol import PROTOCOLS, Name


@settings
class SweepConfig:
    """The YAML of `memlaw sweep`.

    Attributes:
      model: `embedded`, a Hugging Face directory or a hub id.
      dtype: of the frozen weights and activations; losses are float32, adapters what `optim.state` says.
      task: `kind` and the task's own settings; from Python also a `Task`.
      lengths: answer tokens ℓ; null is everything the task has.
      ranks: LoRA ranks, in place of `lora.rank`.
      methods: by name, or mappings with `kind` and settings (`training.method`).
      learning_rates: a grid axis in place of `optim.learning_rate`.
      protocol: `paper` or `standard`: fixes and fills in settings of `lora`, `optim` and `seeds` (`training.protocol`).
      mesh: sizes of the axes `adapters`, `data`, `fsdp` and `tensor`, within (`ici`) and between slices (`dcn`); all
        devices go to `adapters` unless it says otherwise (`memlaw_jax.mesh`).
      parallelism: `jit` runs one program over the mesh, `pmap` a copy of the step on each device.
      lanes: the most adapters trained at once on all devices together, rounded up to what the mesh splits evenly.
      steps_per_dispatch: optimiser steps between two looks of the host.
      stop: `recalled` ends a cell once all its samples are recalled word for word, `certain` once every answer token
        has p > ½ as well, `budget` when its steps are spent.
      skip: `saturated` leaves out cells of which others show that nothing would be left to learn
        (`training.saturation`).
      remat: what the backward pass computes again, `none`, `dots` or `blocks`; null is what memory asks for.
      attention: `auto`, `xla`, `cudnn` or `splash` (`models.attention`).
      hardware: what the sweep is meant for, such as `v5e-16`; `memlaw check` compiles for it (`check.hardware`).
      xla_flags: groups of compiler flags by name (`check.flags`).
      decode: whether finished cells are decoded greedily, for token accuracy without the true tokens before it.
      adapters: whether the adapters themselves are kept, in `adapters/<cell_id>`.
      out: the results folder.
    """

    label: ClassVar[str] = "config"

    task: Any
    ranks: Annotated[tuple[Count, ...], Field(min_length=1)]
    protocol: Name | None = None
    model: str = "embedded"
    dtype: str = "float32"
    attention: str = "auto"
    lengths: Annotated[tuple[Count | None, ...], Field(min_length=1)] = (None,)
    methods: Annotated[tuple[Any, ...], Field(min_length=1)] = ("sft",)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    lora: LoraConfig = LoraConfig()
    optim: OptimConfig = OptimConfig(steps=400)
    mesh: MeshConfig = MeshConfig()
    parallelism: Parallelism = "jit"
    lanes: Count = LANES
    steps_per_dispatch: Count = STEPS_PER_DISPATCH
    stop: Stop = "budget"
    skip: Skip = "none"
    remat: Remat | None = None
    hardware: str | None = None
    xla_flags: tuple[str, ...] = ()
    decode: bool = False
    adapters: bool = False
    out: PathText | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _by_protocol(cls, given: Any) -> Any:
        """Fills in what a protocol says."""
        values = getattr(given, "kwargs", None) or {}
        protocol = values.get("protocol")
        if isinstance(protocol, str) and protocol in PROTOCOLS:
            return PROTOCOLS[protocol].fill(values)
        return given

    def __post_init__(self) -> None:
        self.made_task()
        methods = self.made_methods()
        if self.protocol is not None:
            PROTOCOLS[self.protocol].check(self.protocol, self, methods)

    def placement(self) -> Placement:
        """Where it runs, on the devices that are here.

        Raises:
          UserError: a mesh that they do not make up.
        """
        return Placement(self.mesh.build(), self.parallelism)

    def made_task(self) -> Task:
        """The task itself."""
        return self.task if isinstance(self.task, Task) else make_task(self.task)

    def made_methods(self) -> tuple[Method, ...]:
        """The methods themselves."""
        known = PROTOCOLS[self.protocol].methods if self.protocol else METHODS
        made: dict[str, Method] = {}
        for spec in self.methods:
            method = make_method(spec, known)
            if made.setdefault(method.name, method) != method:
                raise UserError(f"two different methods are called {method.name}; give one of them another `name`.")
            twin = next(other for other in made.values() if other.describe() == method.describe())
            if twin.name != method.name:
                raise UserError(f"methods {twin.name} and {method.name} have the same settings; leave one of them out.")
        return tuple(made.values())
