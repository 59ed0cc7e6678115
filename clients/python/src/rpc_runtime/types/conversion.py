"""What all conversions share."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple


class Form(enum.Enum):
    """Which codec plain values are for: some types, such as `bytes`, differ between these two.

    Plain text uses `MESSAGE_PACK`.
    """

    MESSAGE_PACK = "message_pack"
    JSON = "json"


class ConversionError(ValueError):
    """A value cannot be converted. The text may name its part: `users[3].age: expected ...`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        # From the innermost place to the outermost.
        self._path: list[str | int] = []

    def within(self, place: str | int) -> ConversionError:
        """Adds the field, key, index or variant that contains the place so far. Returns `self`."""
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
    """Converts values of one type to plain values, and back, in one form.

    Both functions raise `ConversionError`.
    """

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
    """Makes the error for a value of another type. It names that type, and not the value."""
    name = _NAMES.get(type(found), f"a value of type {type(found).__name__}")
    return ConversionError(f"expected {expected}, found {name}")
