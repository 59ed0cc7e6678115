"""Booleans, numbers, text, bytes and unit-only enums."""

from __future__ import annotations

import enum
import math
import struct
from typing import Any

from .conversion import ConversionError, Converter, Form, mismatch
from .markers import IntegerRange

_SINGLE = struct.Struct("f")
# The least number that is rounded to infinity in 32 bits.
_TOO_LARGE_FOR_SINGLE = 3.4028235677973366e38
# What MessagePack can hold as an integer.
_NATIVE = range(-(1 << 63), 1 << 64)
# The size of an integer of 128 bits.
_WIDE_BYTES = 16
# The text of an integer of 128 bits: at most 39 digits and a sign.
_MAX_CHARACTERS = 40


def boolean() -> Converter:
    """Converts `bool`."""

    def check(value: Any) -> bool:
        if value is True or value is False:
            return bool(value)
        raise mismatch("a boolean", value)

    return Converter(check, check)


def text() -> Converter:
    """Converts `str`."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise mismatch("text", value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                reason = "the text has surrogates, which are not valid UTF-8"
                raise ConversionError(reason) from None
        # `str(value)` of a member of `class Color(str, Enum)` is "Color.RED".
        return str.__str__(value)

    return Converter(check, check)


def character() -> Converter:
    """Converts text of one character."""
    encode_text, decode_text = text()

    def check(value: str) -> str:
        if len(value) != 1:
            raise ConversionError("expected one character")
        return value

    return Converter(
        lambda value: check(encode_text(value)), lambda value: check(decode_text(value))
    )


def unit() -> Converter:
    """Converts `None`."""

    def check(value: Any) -> None:
        if value is not None:
            raise mismatch("null", value)

    def decode(value: Any) -> None:
        # In MessagePack, a struct without fields is an empty array.
        if value != []:
            check(value)

    return Converter(check, decode)


def anything() -> Converter:
    """Converts `Any`: values stay as they are, unchecked.

    The codec refuses those that it cannot write.
    """

    def same(value: Any) -> Any:
        return value

    return Converter(same, same)


def floating(form: Form, is_single: bool) -> Converter:
    """Converts `float`. Integers are accepted, as serde accepts them."""

    def check(value: Any) -> float:
        if type(value) is not float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise mismatch("a number", value)
            try:
                value = float(value)
            except OverflowError:
                raise ConversionError("the number is too large") from None
        if form is Form.JSON and not math.isfinite(value):
            raise ConversionError("JSON has no such number: it is infinite or not a number")
        if is_single and math.isfinite(value) and abs(value) >= _TOO_LARGE_FOR_SINGLE:
            raise ConversionError("the number is too large for 32 bits")
        return float(value)

    def decode_single(value: Any) -> float:
        # Rounds to 32 bits. JSON has only as many digits as they need: `0.1` stands for
        # 0.10000000149011612.
        return float(_SINGLE.unpack(_SINGLE.pack(check(value)))[0])

    return Converter(check, decode_single if is_single else check)


def integer(form: Form, limits: IntegerRange | None) -> Converter:
    """Converts `int` within its limits. Without limits, those of MessagePack apply, in JSON too."""
    if limits is None:
        least, greatest = _NATIVE.start, _NATIVE.stop - 1
    else:
        least, greatest = limits.least, limits.greatest
    expected = f"an integer from {least} to {greatest}"

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise mismatch(expected, value)
        if not least <= value <= greatest:
            raise ConversionError(f"expected {expected}")
        return int(value)

    if limits is None or limits.bits <= 64 or form is Form.JSON:
        return Converter(check, check)

    # In MessagePack, integers of 128 bits are written as decimal text. Integers, and the 16 bytes
    # that plain rmp-serde writes, are read too.

    def encode(value: Any) -> str:
        return str(check(value))

    def decode(value: Any) -> int:
        if isinstance(value, str) and len(value) <= _MAX_CHARACTERS and value.isascii():
            digits = value[1:] if value.startswith("-") else value
            if digits.isdigit():
                return check(int(value))
        if isinstance(value, bytes) and len(value) == _WIDE_BYTES:
            return check(int.from_bytes(value, "big", signed=least < 0))
        return check(value)

    return Converter(encode, decode)


def binary(form: Form) -> Converter:
    """Converts `bytes`: written as bytes in MessagePack, and as an array of numbers in JSON.

    Both are read in either form.
    """

    def check(value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise mismatch("bytes", value)

    def encode(value: Any) -> list[int]:
        return list(check(value))

    def decode(value: Any) -> bytes:
        if not isinstance(value, list):
            return check(value)
        for index, number in enumerate(value):
            if type(number) is not int or not 0 <= number <= 255:
                raise ConversionError("expected an integer from 0 to 255").within(index)
        return bytes(value)

    return Converter(encode if form is Form.JSON else check, decode)


def unit_enum(kind: type[enum.Enum]) -> Converter:
    """Converts an enum of variants without content. A member's value is its name on the wire."""
    members = {member.value: member for member in kind}
    known = ", ".join(f'"{name}"' for name in members)

    def encode(value: Any) -> str:
        if isinstance(value, kind):
            return str(value.value)
        raise mismatch(f"a {kind.__name__}", value)

    def decode(value: Any) -> enum.Enum:
        if isinstance(value, str):
            if value in members:
                return members[value]
            raise ConversionError(f"unknown variant, expected one of {known}")
        # Externally tagged variants without content may also be a map from the name to null.
        if isinstance(value, dict) and len(value) == 1:
            ((name, content),) = value.items()
            if content is None and isinstance(name, str) and name in members:
                return members[name]
        raise mismatch(f"one of {known}", value)

    return Converter(encode, decode)
