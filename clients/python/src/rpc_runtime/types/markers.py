"""What type hints say beyond a type: limits, names on the wire, values that are left out."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias


@dataclass(frozen=True, slots=True)
class IntegerRange:
    """The values of an integer type."""

    bits: int
    is_signed: bool

    @property
    def least(self) -> int:
        """The least value."""
        return -(1 << (self.bits - 1)) if self.is_signed else 0

    @property
    def greatest(self) -> int:
        """The greatest value."""
        bits_without_sign = self.bits - 1 if self.is_signed else self.bits
        return (1 << bits_without_sign) - 1


@dataclass(frozen=True, slots=True)
class SinglePrecision:
    """Marks a float of 32 bits."""


@dataclass(frozen=True, slots=True)
class SingleCharacter:
    """Marks text of one character."""


@dataclass(frozen=True, slots=True)
class WireName:
    """The name of a field on the wire."""

    name: str


def wire(name: str) -> WireName:
    """Names a field on the wire: `user_name: Annotated[str, wire("userName")]`."""
    return WireName(name)


I8: TypeAlias = Annotated[int, IntegerRange(8, is_signed=True)]
I16: TypeAlias = Annotated[int, IntegerRange(16, is_signed=True)]
I32: TypeAlias = Annotated[int, IntegerRange(32, is_signed=True)]
I64: TypeAlias = Annotated[int, IntegerRange(64, is_signed=True)]
I128: TypeAlias = Annotated[int, IntegerRange(128, is_signed=True)]
U8: TypeAlias = Annotated[int, IntegerRange(8, is_signed=False)]
U16: TypeAlias = Annotated[int, IntegerRange(16, is_signed=False)]
U32: TypeAlias = Annotated[int, IntegerRange(32, is_signed=False)]
U64: TypeAlias = Annotated[int, IntegerRange(64, is_signed=False)]
U128: TypeAlias = Annotated[int, IntegerRange(128, is_signed=False)]
F32: TypeAlias = Annotated[float, SinglePrecision()]
Char: TypeAlias = Annotated[str, SingleCharacter()]


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset.UNSET
"""The value of a field or an argument that is left out, so that its reader uses the default."""
