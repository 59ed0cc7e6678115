"""The bodies of messages with items, with credit, and with cancellations.

All are MessagePack, whatever the content type of the items. Readers skip further elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from ..codec import Codec, CodecError, decode
from .volume import MAX_ITEMS, UNLIMITED, Volume

_MAX_ELEMENTS = 1024
# The containers of a whole body: more than its elements, because further values are skipped.
_MAX_CONTAINERS = 8 * _MAX_ELEMENTS
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Items:
    """A message of items: the number of the first, from 0, and the credit that its sender knows."""

    first: int
    items: list[bytes]
    credit: Volume = Volume()

    @property
    def after_last(self) -> int:
        """The number of the item after these."""
        return self.first + len(self.items)


@dataclass(frozen=True, slots=True)
class IncomingGrant:
    """What a worker says about the items that its caller sends."""

    # The values of `asks`.
    NOTHING = 0
    # To send all items again that the method has not taken.
    AGAIN = 1
    # To send no more items.
    ENOUGH = 2

    # How many items the caller may send in total.
    credit: int
    # How many of them the method has taken.
    taken: int
    asks: int


def pack(value: Any) -> bytes:
    """Writes a value of this module as MessagePack. Never fails, unlike `encode`."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def write_items(items: Items) -> bytes:
    """Writes a message of items."""
    elements: list[Any] = [items.first, items.items, items.credit.items]
    if items.credit.size != UNLIMITED:
        elements.append(items.credit.size)
    return pack(elements)


def read_items(body: bytes) -> Items:
    """Reads a message of items, in which the credit may be missing. Raises `CodecError`."""
    first, items, *credit = _array(body, 2)
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise CodecError("the items are no array, or too many")
    if not all(isinstance(item, bytes) for item in items):
        raise CodecError("an item is not bytes")
    known = Volume(
        _number(credit[0]) if credit else 0,
        _number(credit[1]) if len(credit) > 1 else UNLIMITED,
    )
    return Items(_number(first), items, known)


def write_grant(identity: bytes, credit: Volume) -> bytes:
    """Writes the credit of one stream."""
    grant: list[Any] = [identity, credit.items]
    if credit.size != UNLIMITED:
        grant.append(credit.size)
    return pack([grant])


def read_grants(body: bytes) -> Iterator[tuple[bytes, Volume]]:
    """Reads the credit of streams. Raises `CodecError` at the first element that is invalid."""
    for identity, items, *rest in _elements(body):
        size = _number(rest[0]) if rest else UNLIMITED
        yield identity, Volume(_number(items), size)


def write_incoming_grant(grant: IncomingGrant) -> bytes:
    """Writes what a worker says about its caller's items."""
    return pack([grant.credit, grant.taken, grant.asks])


def read_incoming_grant(body: bytes) -> IncomingGrant:
    """Reads what a worker says about the items. Raises `CodecError`."""
    credit, taken, asks, *_ = _array(body, 3)
    return IncomingGrant(_number(credit), _number(taken), _number(asks))


def write_cancellations(calls: Sequence[tuple[bytes, int]]) -> bytes:
    """Writes the ids of cancelled calls, and for how many milliseconds their requests can wait."""
    return pack([list(call) for call in calls])


def read_cancellations(body: bytes) -> Iterator[tuple[bytes, float]]:
    """Reads the ids of cancelled calls, and how many seconds their requests may still wait.

    Raises `CodecError` at the first element that is invalid.
    """
    for identity, millis, *_ in _elements(body):
        yield identity, _number(millis) / 1000


def _elements(body: bytes) -> Iterator[list[Any]]:
    """Reads an array of arrays that begin with an id, and have at least one more element."""
    elements = _array(body, 0)
    if len(elements) > _MAX_ELEMENTS:
        raise CodecError("the array has too many elements")
    for element in elements:
        is_valid = isinstance(element, list) and len(element) >= 2
        if not is_valid or not isinstance(element[0], bytes) or len(element[0]) != _ID_BYTES:
            raise CodecError("an element is no array with an id")
        yield element


def _array(body: bytes, length: int) -> list[Any]:
    """Reads an array of at least this many elements."""
    value = decode(Codec.MESSAGE_PACK, body, _MAX_CONTAINERS)
    if not isinstance(value, list) or len(value) < length:
        raise CodecError(f"the body is no array of {length} elements")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise CodecError("a number is not a whole number")
    return int(value)
