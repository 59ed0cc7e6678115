"""What all conversions share."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple


class Form(enum.Enum):
    """The formats that differ in how they write some values."""

    MESSAGE_PACK = "message_pack"
    JSON = "json"


class ConversionError(ValueError):
    """A value does not have its type. The text names the place: `users[3].age: expected ...`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._path: list[str | int] = []

    def within(self, place: str | int) -> ConversionError:
        """Adds the field or the index that contains the place so far."""
        self._path.append(place)
        return self

    def __str__(self) -> str:
        path = ""
        for place in reversed(self._path):
            if isinstance(place, int):
                path += f"[{place}]"
            else:
                path += f".{place}" if path else place
        return f"{path}: {self.reason}" if path else self.reason


class Converter(NamedTuple):
    """Converts values of one type in one form."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "text",
    bytes: "bytes",
    list: "an array",
    dict: "a map",
}


def mismatch(expected: str, found: Any) -> ConversionError:
    """Makes the error of a value of another type. It does not quote the value."""
    name = _NAMES.get(type(found), f"a value of type {type(found).__name__}")
    return ConversionError(f"expected {expected}, found {name}")
