"""Structs: maps from the names of fields to their values."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from .conversion import ConversionError, Converter, mismatch
from .markers import UNSET, WireName


class Missing(enum.Enum):
    """What becomes of a struct if a field is missing."""

    REFUSED = "refused"
    NONE = "none"
    # The class itself gives the field its default.
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a struct."""

    attribute: str
    # On the wire.
    name: str
    converter: Converter
    if_missing: Missing


Resolve = Callable[[Any], tuple[Converter, bool]]
"""Returns the converter of a type, and whether it is `Any` or a union with `None`."""


def fields_of(cls: type, resolve: Resolve) -> list[Field]:
    """Reads the fields of a declared class."""
    hints = get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        wire_name = field.name
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            wire_names = (mark.name for mark in marks if isinstance(mark, WireName))
            wire_name = next(wire_names, field.name)
            # The other marks belong to the type, as in `U8`.
            type_marks = [mark for mark in marks if not isinstance(mark, WireName)]
            if type_marks:
                hint = Annotated[(hint, *type_marks)]
        converter, accepts_none = resolve(hint)
        fields.append(Field(field.name, wire_name, converter, _if_missing(field, accepts_none)))
    return fields


def _if_missing(field: dataclasses.Field[Any], accepts_none: bool) -> Missing:
    # `UNSET` is a default like any other.
    no_default = dataclasses.MISSING
    if field.default is not no_default or field.default_factory is not no_default:
        return Missing.DEFAULT
    return Missing.NONE if accepts_none else Missing.REFUSED


def struct(cls: type, fields: list[Field]) -> Converter:
    """Converts a class as a map of its fields, without those that are `UNSET`.

    Entries that are no field are skipped when a map is read.
    """
    encoders = [(field.attribute, field.name, field.converter.encode) for field in fields]
    decoders = [
        (field.attribute, field.name, field.converter.decode, field.if_missing) for field in fields
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
        for attribute, name, convert, if_missing in decoders:
            if name in entries:
                try:
                    values[attribute] = convert(entries[name])
                except ConversionError as error:
                    raise error.within(name) from None
            elif if_missing is Missing.REFUSED:
                raise ConversionError(f'the field "{name}" is missing')
            elif if_missing is Missing.NONE:
                values[attribute] = None
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
