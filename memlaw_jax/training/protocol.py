"""The paper's protocol and the one we recommend (PAPER.md, section 8), as presets of a sweep's settings.

A protocol fixes some settings, and a sweep that changes one of these cannot carry its name; it gives defaults for
others. `docs/protocols.md` says why each differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from memlaw_jax.errors import UserError
from memlaw_jax.training.method import METHODS, RELEASED, Method

if TYPE_CHECKING:
    from memlaw_jax.training.sweep_config import SweepConfig

Name = Literal["paper", "standard"]
CUSTOM = "custom"  # what records say of a sweep that follows neither


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings that a protocol fixes, and its defaults for others; both by the names of `LoraConfig`, `OptimConfig`.

    A method by one of the names in `methods` has the settings that stand there, but for its curriculum; `shortcuts`
    says whether cells may end early or be left out.
    """

    lora: Mapping[str, Any]
    optim: Mapping[str, Any]
    steps: int
    seeds: tuple[int, ...]
    methods: Mapping[str, Method]
    shortcuts: bool

    def fill(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a config, with the protocol's for all that they leave out."""
        filled = dict(values)
        filled.setdefault("seeds", self.seeds)
        for part, fixed in (("lora", self.lora), ("optim", self.optim)):
            given = filled.get(part) or {}
            if isinstance(given, Mapping):
                filled[part] = {**fixed, **given}
        optim = filled["optim"]
        if isinstance(optim, Mapping) and not {"steps", "epochs"} & set(optim):
            filled["optim"] = {**optim, "steps": self.steps}
        return filled

    def check(self, name: str, config: SweepConfig, methods: Sequence[Method]) -> None:
        """Refuses settings that the protocol fixes otherwise."""
        for key, value, whole in (("stop", config.stop, "budget"), ("skip", config.skip, "none")):
            if not self.shortcuts and value != whole:
                raise UserError(
                    f"protocol {name} trains every cell to the end, and {key} is {value}; set {key} to {whole}, or "
                    "leave `protocol` out and choose every setting yourself."
                )
        for method in methods:
            if method.objective not in [fixed.objective for fixed in self.methods.values()]:
                raise UserError(
                    f"protocol {name} fixes what its methods are, and {method.name} is {method.objective}; name "
                    f"the method alone, or leave `protocol` out and choose every setting yourself."
                )
        for part, fixed, found in (("lora", self.lora, config.lora), ("optim", self.optim, config.optim)):
            for key, value in fixed.items():
                if getattr(found, key) != value:
                    raise UserError(
                        f"protocol {name} has {part}.{key} {_shown(value)}, yours is {_shown(getattr(found, key))}; "
                        f"set {part}.{key} so, or leave `protocol` out and choose every setting yourself."
                    )


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


_ADAMW = {"schedule": "linear", "clip": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol(
        lora={"targets": ("mlp",), "init": "paper", "alpha": None, "dropout": 0.1},
        optim=_ADAMW,
        steps=2000,  # of one long text; a phone book has 200 epochs, with a batch by its length
        seeds=(42,),
        methods=RELEASED,
        shortcuts=False,
    ),
    "standard": Protocol(
        lora={"init": "peft", "dropout": 0.0},
        optim={**_ADAMW, "state": "float32"},
        steps=400,
        seeds=(0, 1, 2),
        methods=METHODS,
        shortcuts=True,
    ),
}
