"""Lists, sets, tuples, maps and optional values."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .conversion import ConversionError, Converter, Form, mismatch


def sequence(item: Converter, build: Callable[[list[Any]], Any] = list) -> Converter:
    """Converts an array of values of one type. `build` makes a collection of the decoded items."""
    encode_item, decode_item = item

    def encode(value: Any) -> list[Any]:
        if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping):
            raise mismatch("an array", value)
        return _each(encode_item, value)

    def decode(value: Any) -> Any:
        if not isinstance(value, list):
            raise mismatch("an array", value)
        return build(_each(decode_item, value))

    return Converter(encode, decode)


def _each(convert: Callable[[Any], Any], values: Collection[Any]) -> list[Any]:
    converted: list[Any] = []
    try:
        # A loop with `append` knows the index of an item that fails.
        for value in values:
            converted.append(convert(value))  # noqa: PERF401
    except ConversionError as error:
        raise error.within(len(converted)) from None
    return converted


def fixed(items: list[Converter]) -> Converter:
    """Converts a tuple: an array whose items have a type each."""
    expected = f"an array of {len(items)} items"

    def convert_items(value: Any, converts: list[Callable[[Any], Any]]) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise mismatch(expected, value)
        if len(value) != len(converts):
            raise ConversionError(f"expected {expected}, found {len(value)}")
        converted: list[Any] = []
        try:
            for item, convert in zip(value, converts, strict=True):
                converted.append(convert(item))
        except ConversionError as error:
            raise error.within(len(converted)) from None
        return converted

    encoders = [item.encode for item in items]
    decoders = [item.decode for item in items]
    return Converter(
        lambda value: convert_items(value, encoders),
        lambda value: tuple(convert_items(value, decoders)),
    )


def mapping(key: Converter, value: Converter) -> Converter:
    """Converts a map."""

    def convert(
        entries: Any, convert_key: Callable[[Any], Any], convert_value: Callable[[Any], Any]
    ) -> dict[Any, Any]:
        if not isinstance(entries, Mapping):
            raise mismatch("a map", entries)
        converted: dict[Any, Any] = {}
        for name, entry in entries.items():
            try:
                converted[convert_key(name)] = convert_value(entry)
            except ConversionError as error:
                # A key may be long.
                raise error.within(str(name)[:64]) from None
        return converted

    return Converter(
        lambda entries: convert(entries, key.encode, value.encode),
        lambda entries: convert(entries, key.decode, value.decode),
    )


def key_in(form: Form, kind: Any, key: Converter) -> Converter:
    """Makes the converter of a map's key in a form: in JSON, integers and booleans are text.

    `kind` is the class of the key, and `key` the converter of that type outside of maps.
    """
    if form is Form.MESSAGE_PACK or kind is str or _is_enum(kind):
        return key
    if kind is bool:
        # Other text stays as it is, so that `key` refuses it.
        return Converter(
            lambda value: "true" if key.encode(value) else "false",
            lambda text: key.decode({"true": True, "false": False}.get(text, text)),
        )

    def decode(value: Any) -> Any:
        digits = value.removeprefix("-") if isinstance(value, str) else ""
        # A round limit for the work of `int`: 128 bits need at most 39 digits.
        if digits.isascii() and digits.isdigit() and len(digits) <= 40:
            return key.decode(int(value))
        raise mismatch("the text of an integer", value)

    return Converter(lambda value: str(key.encode(value)), decode)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def optional(item: Converter) -> Converter:
    """Converts a value or `None`."""
    encode_item, decode_item = item
    return Converter(
        lambda value: None if value is None else encode_item(value),
        lambda value: None if value is None else decode_item(value),
    )
