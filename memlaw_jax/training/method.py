"""A method of the grid: an objective, and the curriculum over samples that it may come with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memlaw_jax.errors import UserError
from memlaw_jax.objectives import OBJECTIVES, MemFTOT, MemFTSW, Objective, Sft
from memlaw_jax.training.order import Curriculum


@dataclass(frozen=True, kw_only=True)
class Method:
    """`name` is what records say; two methods of one sweep need different ones."""

    name: str
    objective: Objective
    curriculum: Curriculum | None = None

    def describe(self) -> dict[str, Any]:
        """Every setting, as records state it and as it defines a cell."""
        values: dict[str, Any] = {"kind": self.objective.name, **dataclasses.asdict(self.objective)}  # type: ignore[call-overload]
        return values | ({"curriculum": dataclasses.asdict(self.curriculum)} if self.curriculum else {})

    @property
    def identity(self) -> Any:
        """What tells cells of this method from others; plain SFT is its name, as it was before there were others."""
        return "sft" if self.objective == Sft() and self.curriculum is None else self.describe()


def _methods(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


METHODS = _methods(
    Method(name="sft", objective=Sft()),
    Method(name="memft-ot", objective=MemFTOT()),
    Method(name="memft-sw", objective=MemFTSW()),
    Method(name="memft-curriculum", objective=MemFTOT(when_empty="skip"), curriculum=Curriculum()),
)
# As the release trains (PAPER.md, section 4). Its PhoneBook "SW" is the last one.
RELEASED = _methods(
    METHODS["sft"],
    Method(name="memft-ot", objective=MemFTOT.release()),
    Method(name="memft-sw", objective=MemFTSW.release()),
    Method(name="memft-curriculum", objective=MemFTOT.release("skip"), curriculum=Curriculum(drop_last=True)),
)


def make_method(spec: Any, methods: Mapping[str, Method] = METHODS) -> Method:
    """A method from a config: a name, or a mapping with `kind` and settings; from Python also an objective.

    The mapping changes the named method's settings; `curriculum` is true for the paper's, false for none, or settings
    that change it; `name` is what records say, by default the kind, with `+curriculum` where one was added.

    Raises:
      UserError: an unknown method or setting.
    """
    if isinstance(spec, Method):
        return spec
    if isinstance(spec, Sft | MemFTOT | MemFTSW):
        return Method(name=spec.name, objective=spec)
    values = {"kind": spec} if isinstance(spec, str) else spec
    if not isinstance(values, Mapping) or not isinstance(values.get("kind"), str):
        raise UserError(f"a method is {spec!r}; give one of {', '.join(methods)}, or a mapping with such a `kind`.")
    if values["kind"] not in methods:
        raise UserError(f"method {values['kind']!r} is unknown; allowed are {', '.join(methods)}.")
    _check_words(values)
    start = methods[values["kind"]]
    changed = {key: value for key, value in values.items() if key not in ("kind", "name", "curriculum")}
    objective: Any = OBJECTIVES[start.objective.name](**(dataclasses.asdict(start.objective) | changed))  # type: ignore[call-overload]
    curriculum = _curriculum(values.get("curriculum"), start.curriculum)
    added = "+curriculum" if curriculum and not start.curriculum else ""
    name = values.get("name", start.name + added)
    if not isinstance(name, str) or not name:
        raise UserError(f"a method's name is {name!r}; give it a word.")
    return Method(name=name, objective=objective, curriculum=curriculum)


def _check_words(values: Mapping[Any, Any]) -> None:
    if odd := [key for key in values if not isinstance(key, str)]:
        raise UserError(f"a method's settings are words, not {', '.join(map(repr, odd))}.")


def _curriculum(given: Any, start: Curriculum | None) -> Curriculum | None:
    if given is None:
        return start
    if isinstance(given, bool):
        return (start or Curriculum()) if given else None
    if isinstance(given, Mapping):
        _check_words(given)
        return Curriculum(**(dataclasses.asdict(start or Curriculum()) | dict(given)))
    raise UserError(f"curriculum is {given!r}; give true, false, or a mapping with ratios and boundaries.")
