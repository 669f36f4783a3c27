"""Frozen, keyword-only, checked settings: the dataclass that is also the YAML.

pydantic checks names, types and bounds on construction; its many-line report is told as one sentence that names the
key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
from pydantic import BeforeValidator, ConfigDict, ValidationError

from memlaw_jax.errors import UserError

T = TypeVar("T")

PathText = Annotated[str, BeforeValidator(lambda path: os.fspath(path) if isinstance(path, os.PathLike) else path)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
Count = Annotated[int, pydantic.Field(ge=1)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen pydantic dataclass whose constructor raises UserError. A `label` on the class names it in errors."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except ValidationError as error:
            raise _user_error(made, error) from None

    made.__init__ = checked
    return made


def _user_error(cls: Any, error: ValidationError) -> UserError:
    """The first of pydantic's complaints as one sentence."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return cause
    where = ".".join(str(part) for part in first["loc"])
    label = getattr(cls, "label", cls.__name__)
    if first["type"] in ("unexpected_keyword_argument", "unexpected_positional_argument"):
        key, inside = first["loc"][-1] if first["loc"] else "", _type_at(cls, first["loc"][:-1])
        allowed = ", ".join(item.name for item in dataclasses.fields(inside)) if inside else ""
        return UserError(f"{label} has no setting {where or key!r}; allowed are {allowed or 'none'}.")
    if first["type"] == "missing_keyword_only_argument" or first["type"] == "missing":
        return UserError(f"{label} needs a value for {where}.")
    return UserError(f"{label}: {where} is {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}.")


def _type_at(cls: Any, path: tuple[Any, ...]) -> Any:
    """The settings class that stands at a path of field names inside another, or None."""
    for part in path:
        fields = getattr(cls, "__pydantic_fields__", {})
        cls = fields[part].annotation if part in fields else None
    return cls if dataclasses.is_dataclass(cls) else None
