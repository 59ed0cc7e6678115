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
        return (1 << (self.bits - 1 if self.is_signed else self.bits)) - 1


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


I8: TypeAlias = Annotated[int, IntegerRange(8, True)]
I16: TypeAlias = Annotated[int, IntegerRange(16, True)]
I32: TypeAlias = Annotated[int, IntegerRange(32, True)]
I64: TypeAlias = Annotated[int, IntegerRange(64, True)]
I128: TypeAlias = Annotated[int, IntegerRange(128, True)]
U8: TypeAlias = Annotated[int, IntegerRange(8, False)]
U16: TypeAlias = Annotated[int, IntegerRange(16, False)]
U32: TypeAlias = Annotated[int, IntegerRange(32, False)]
U64: TypeAlias = Annotated[int, IntegerRange(64, False)]
U128: TypeAlias = Annotated[int, IntegerRange(128, False)]
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
