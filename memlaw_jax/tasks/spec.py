"""Settings of a task: frozen, keyword-only, checked on construction, with mistakes told in the user's words."""

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
Seed = Annotated[int, pydantic.Field(ge=0)]
Count = Annotated[int, pydantic.Field(ge=1)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def task_settings(cls: type[T]) -> type[T]:
    """A pydantic dataclass whose constructor raises UserError instead of pydantic's many-line report."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        try:
            validate(self, *args, **settings)
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
    allowed = ", ".join(item.name for item in dataclasses.fields(cls))
    key = first["loc"][0] if first["loc"] else ""
    if first["type"] in ("unexpected_keyword_argument", "unexpected_positional_argument"):
        return UserError(f"Task {cls.name} has no setting {str(key)!r}; allowed are {allowed}.")
    return UserError(f"Task {cls.name}: {key} is {first['input']!r}; {first['msg'].lower()}.")
