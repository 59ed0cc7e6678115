"""Structs: maps from the names of fields to their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from .conversion import ConversionError, Converter, mismatch
from .markers import UNSET, WireName

# The default of a field that must not be missing: `None` may be a default.
_NO_DEFAULT: Any = object()


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct."""

    attribute: str
    # On the wire.
    name: str
    converter: Converter
    # The value if the field is missing, or `_NO_DEFAULT`.
    default: Any


Resolve = Callable[[Any], tuple[Converter, bool]]
"""Returns the converter of a type, and whether the type has `None`."""


def fields_of(cls: type, resolve: Resolve) -> list[Field]:
    """Reads the fields of a declared class."""
    hints = get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        name = field.name
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            name = next((mark.name for mark in marks if isinstance(mark, WireName)), name)
            others = [mark for mark in marks if not isinstance(mark, WireName)]
            if others:
                hint = Annotated[(hint, *others)]
        converter, has_none = resolve(hint)
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            default = None if has_none else _NO_DEFAULT
        fields.append(Field(field.name, name, converter, default))
    return fields


def struct(cls: type, fields: list[Field]) -> Converter:
    """Converts a class with these fields."""
    encoders = [(field.attribute, field.name, field.converter.encode) for field in fields]
    decoders = [
        (field.attribute, field.name, field.converter.decode, field.default) for field in fields
    ]

    def encode(value: Any) -> dict[str, Any]:
        if not isinstance(value, cls):
            raise mismatch(f"a {cls.__name__}", value)
        entries: dict[str, Any] = {}
        for attribute, name, convert in encoders:
            entry = getattr(value, attribute)
            if entry is UNSET:
                continue
            try:
                entries[name] = convert(entry)
            except ConversionError as error:
                raise error.within(name) from None
        return entries

    def decode(entries: Any) -> Any:
        if not isinstance(entries, dict):
            raise mismatch("a map", entries)
        values: dict[str, Any] = {}
        for attribute, name, convert, default in decoders:
            if name in entries:
                try:
                    values[attribute] = convert(entries[name])
                except ConversionError as error:
                    raise error.within(name) from None
            elif default is _NO_DEFAULT:
                raise ConversionError(f'the field "{name}" is missing')
            else:
                values[attribute] = default
        return cls(**values)

    return Converter(encode, decode)


def only_field(cls: type, field: Field) -> Converter:
    """Converts a class as the value of its only field."""

    def encode(value: Any) -> Any:
        if not isinstance(value, cls):
            raise mismatch(f"a {cls.__name__}", value)
        return field.converter.encode(getattr(value, field.attribute))

    def decode(value: Any) -> Any:
        return cls(**{field.attribute: field.converter.decode(value)})

    return Converter(encode, decode)
