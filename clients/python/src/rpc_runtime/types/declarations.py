"""Decorators of generated types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, dataclass_transform

_T = TypeVar("_T")

Shape = Literal["unit", "newtype", "struct"]

VARIANT = "__rpc_variant__"
TRANSPARENT = "__rpc_transparent__"


@dataclass(frozen=True, slots=True)
class Variant:
    """How a variant of an enum looks on the wire; see `variant`."""

    name: str
    # The key of the name. `None` if the enum is externally tagged.
    tag: str | None
    # The key of the value. `None` unless the enum is adjacently tagged.
    content: str | None
    shape: Shape


def _dataclass(cls: type[_T]) -> type[_T]:
    if issubclass(cls, BaseException):
        # Not frozen: Python sets attributes of an exception that is raised, such as its traceback.
        return dataclass(kw_only=True, eq=False)(cls)
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[_T]) -> type[_T]:
    """Declares a struct: on the wire, a map of its fields."""
    return _dataclass(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def transparent(cls: type[_T]) -> type[_T]:
    """Declares a class that is written as the value of its only field."""
    declared = _dataclass(cls)
    if len(dataclasses.fields(declared)) != 1:  # type: ignore[arg-type]
        raise TypeError(f"{cls.__name__} must have one field to be transparent")
    setattr(declared, TRANSPARENT, True)
    return declared


@dataclass_transform(frozen_default=True, kw_only_default=True)
def variant(
    name: str,
    *,
    tag: str | None = None,
    content: str | None = None,
    shape: Shape | None = None,
) -> Callable[[type[_T]], type[_T]]:
    """Declares a variant of an enum, which is called `name` on the wire.

    Without `tag`, the enum is externally tagged: `{"Circle": {"radius": 1.0}}`. With `tag`, it is
    internally tagged: `{"type": "circle", "radius": 1.0}`. With `content` too, which is the key of
    the variant's value, it is adjacently tagged: `{"type": "circle", "content": {"radius": 1.0}}`.

    A variant with the shape `newtype` is written as the value of its only field. By default, a
    variant without fields is a `unit`, and any other one a `struct`.
    """
    if content is not None and tag is None:
        raise TypeError("a variant with a content needs a tag")

    def declare(cls: type[_T]) -> type[_T]:
        declared = _dataclass(cls)
        fields = dataclasses.fields(declared)  # type: ignore[arg-type]
        actual: Shape = shape or ("struct" if fields else "unit")
        if (actual == "newtype" and len(fields) != 1) or (actual == "unit" and fields):
            raise TypeError(f"{cls.__name__} has too many or too few fields for a {actual} variant")
        setattr(declared, VARIANT, Variant(name, tag, content, actual))
        return declared

    return declare


def variant_of(cls: Any) -> Variant | None:
    """Returns how a class is written if it is a variant. `None` for any other class or type."""
    found = vars(cls).get(VARIANT) if isinstance(cls, type) else None
    return found if isinstance(found, Variant) else None


def is_transparent(cls: type) -> bool:
    """Tells whether a class is written as the value of its only field."""
    return TRANSPARENT in vars(cls)
