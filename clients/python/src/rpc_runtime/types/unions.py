"""Enums with content: tagged externally, internally, adjacently, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .conversion import ConversionError, Converter, mismatch
from .declarations import Variant


@dataclass(frozen=True, slots=True)
class Case:
    """A variant, and the converter of its content.

    A unit has no content, so its converter is not used.
    """

    cls: type
    variant: Variant
    content: Converter


def tagged(cases: Sequence[Case]) -> Converter:
    """Converts variants that have the same `tag` and `content`, and different names."""
    tag, content = cases[0].variant.tag, cases[0].variant.content
    by_class = {case.cls: case for case in cases}
    by_name = {case.variant.name: case for case in cases}
    known = ", ".join(f'"{name}"' for name in by_name)

    def case_of(value: Any) -> Case:
        case = by_class.get(type(value))
        if case is None:
            case = next((case for case in cases if isinstance(value, case.cls)), None)
        if case is None:
            raise mismatch(f"one of {', '.join(cls.__name__ for cls in by_class)}", value)
        return case

    def case_named(name: Any) -> Case:
        if not isinstance(name, str):
            raise mismatch("the name of a variant", name)
        case = by_name.get(name)
        if case is None:
            raise ConversionError(f"unknown variant, expected one of {known}")
        return case

    if tag is None:
        return _external(case_of, case_named)
    if content is None:
        return _internal(tag, case_of, case_named)
    return _adjacent(tag, content, case_of, case_named)


def _encode_content(case: Case, value: Any) -> Any:
    try:
        return case.content.encode(value)
    except ConversionError as error:
        raise error.within(case.variant.name) from None


def _decode_content(case: Case, content: Any) -> Any:
    """Makes the variant from its content, which a unit ignores."""
    if case.variant.shape == "unit":
        return case.cls()
    try:
        return case.content.decode(content)
    except ConversionError as error:
        raise error.within(case.variant.name) from None


def _external(case_of: Any, case_named: Any) -> Converter:
    """Converts `{"Circle": {...}}`, or `"Point"` for a unit, which is read from a map too."""

    def encode(value: Any) -> Any:
        case = case_of(value)
        if case.variant.shape == "unit":
            return case.variant.name
        return {case.variant.name: _encode_content(case, value)}

    def decode(value: Any) -> Any:
        if isinstance(value, str):
            case = case_named(value)
            if case.variant.shape != "unit":
                raise ConversionError(f'the variant "{value}" has a content, which is missing')
            return case.cls()
        if not isinstance(value, dict) or len(value) != 1:
            raise mismatch("the name of a variant, or a map with one entry", value)
        ((name, content),) = value.items()
        return _decode_content(case_named(name), content)

    return Converter(encode, decode)


def _internal(tag: str, case_of: Any, case_named: Any) -> Converter:
    """Converts `{"type": "circle", ...}`, if the tag is `type`."""

    def encode(value: Any) -> Any:
        case = case_of(value)
        if case.variant.shape == "unit":
            return {tag: case.variant.name}
        fields = _encode_content(case, value)
        if not isinstance(fields, dict):
            raise ConversionError(f"a variant with the tag {tag!r} must have fields")
        if tag in fields:
            raise ConversionError(f'the field "{tag}" of a variant has the name of its tag')
        return {tag: case.variant.name, **fields}

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise mismatch("a map", value)
        if tag not in value:
            raise ConversionError(f'the field "{tag}" is missing')
        case = case_named(value[tag])
        fields = {name: entry for name, entry in value.items() if name != tag}
        return _decode_content(case, fields)

    return Converter(encode, decode)


def _adjacent(tag: str, content: str, case_of: Any, case_named: Any) -> Converter:
    """Converts `{"type": "circle", "content": {...}}`, if `tag` and `content` are these keys."""

    def encode(value: Any) -> Any:
        case = case_of(value)
        if case.variant.shape == "unit":
            return {tag: case.variant.name}
        return {tag: case.variant.name, content: _encode_content(case, value)}

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise mismatch("a map", value)
        if tag not in value:
            raise ConversionError(f'the field "{tag}" is missing')
        case = case_named(value[tag])
        if case.variant.shape != "unit" and content not in value:
            raise ConversionError(f'the field "{content}" is missing')
        return _decode_content(case, value.get(content))

    return Converter(encode, decode)


def untagged(choices: Sequence[Converter]) -> Converter:
    """Converts a value with the first of the converters that accepts it."""

    def first(value: Any, converts: Sequence[Any]) -> Any:
        reasons = []
        for convert in converts:
            try:
                return convert(value)
            except ConversionError as error:
                reasons.append(str(error))
        # If unions are nested, the reasons multiply.
        raise ConversionError(f"no variant fits: {'; '.join(reasons)}"[:512])

    encoders = [choice.encode for choice in choices]
    decoders = [choice.decode for choice in choices]
    return Converter(lambda value: first(value, encoders), lambda value: first(value, decoders))
