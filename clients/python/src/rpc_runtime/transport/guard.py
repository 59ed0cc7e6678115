"""Repairs messages of peers that the AMQP client cannot read.

RabbitMQ does not validate everything that publishers send. aiormq closes the connection if it
cannot read a frame, and the broker would deliver the message again to the next connection, without
end. So the guard reads each frame first. If properties cannot be read, it keeps those that can, and
marks the message as malformed unless only its timestamp is lost.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Callable
from typing import Any

from pamqp import commands, decode, encode, header

_FRAME_HEADER = struct.Struct(">BHI")
_CONTENT_HEADER = struct.Struct(">HHQ")
_METHOD_FRAME = 1
_HEADER_FRAME = 2
# What fits into a frame by default.
_MAX_PROPERTIES = 128 * 1024
# With the byte of its length. In hexadecimal digits, an id must still fit into a short string.
_MAX_RAW_ID = 100

# Where short strings are in methods that the broker sends, by the numbers of class and method.
# "s" is a short string, and a number is that of bytes between them. What follows does not matter.
_LAYOUTS: dict[tuple[int, int], tuple[str | int, ...]] = {
    (10, 50): (2, "s"),  # connection.close
    (10, 60): ("s",),  # connection.blocked
    (20, 40): (2, "s"),  # channel.close
    (50, 11): ("s",),  # queue.declare-ok
    (60, 30): ("s",),  # basic.cancel
    (60, 50): (2, "s", "s", "s"),  # basic.return
    (60, 60): ("s", 9, "s", "s"),  # basic.deliver
    (60, 71): (9, "s", "s"),  # basic.get-ok
}
_BLOCKED = (10, 60)
_UNBLOCKED = (10, 61)

# The header that marks a message as malformed, and says why. A peer cannot guess its name.
MALFORMED_HEADER = f"malformed-{secrets.token_hex(8)}"
# Set in addition if the headers, or `x-death`, are lost: nothing is known of earlier rejections.
HEADERS_LOST_HEADER = f"headers-lost-{secrets.token_hex(8)}"
# The beginning of a correlation id that is not UTF-8, which is passed on in hexadecimal digits.
_ESCAPE = f"raw-{secrets.token_hex(4)}-"


class RawText(str):
    """A short string that is not UTF-8, to be sent as it came."""

    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> RawText:
        """Keeps these bytes."""
        text = cls(raw.decode("latin-1"))
        text.raw = raw
        return text

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Returns the bytes as they came."""
        return self.raw


class GuardedReader:
    """Reads frames for aiormq, in place of an `asyncio.StreamReader`.

    Calls `on_blocked` when the broker says whether it blocks publishers.
    """

    def __init__(self, reader: asyncio.StreamReader, on_blocked: Callable[[bool], None]) -> None:
        self._reader = reader
        self._on_blocked = on_blocked
        # The repaired frame, of which aiormq has read the bytes before the position.
        self._frame = b""
        self._position = 0

    def at_eof(self) -> bool:
        """Whether nothing is left."""
        return self._position >= len(self._frame) and self._reader.at_eof()

    async def read(self, limit: int = -1) -> bytes:
        """Reads bytes unchanged. aiormq contains a call of this, but no frame leads to it."""
        return await self._reader.read(limit)

    async def readexactly(self, count: int) -> bytes:
        """Reads the next part of a frame. aiormq never asks for more than is left of it."""
        if self._position >= len(self._frame):
            self._frame = await self._next_frame()
            self._position = 0
        part = self._frame[self._position : self._position + count]
        self._position += count
        return part

    async def _next_frame(self) -> bytes:
        """Reads a whole frame, and repairs it."""
        start = await self._reader.readexactly(_FRAME_HEADER.size)
        if start.startswith(b"AMQP"):
            # The broker speaks another version of the protocol.
            return start + await self._reader.readexactly(1)
        kind, channel, size = _FRAME_HEADER.unpack(start)
        payload = await self._reader.readexactly(size + 1)
        if kind == _METHOD_FRAME:
            body = self._method(payload[:-1])
        elif kind == _HEADER_FRAME:
            body = readable_header(payload[:-1])
        else:
            return start + payload
        return _FRAME_HEADER.pack(kind, channel, len(body)) + body + payload[-1:]

    def _method(self, body: bytes) -> bytes:
        """Repairs a method, and passes on whether the broker blocks publishers."""
        method = struct.unpack_from(">HH", body) if len(body) >= 4 else (0, 0)
        if method in (_BLOCKED, _UNBLOCKED):
            self._on_blocked(method == _BLOCKED)
        return readable_method(method, body)


def readable_method(method: tuple[Any, ...], body: bytes) -> bytes:
    """Replaces each byte in names and reasons that is not UTF-8 by a question mark.

    So no length changes. `method` holds the numbers of the class and the method.
    """
    offset, end = 4, len(body)
    for part in _LAYOUTS.get((method[0], method[1]), ()):
        if isinstance(part, int):
            offset += part
            continue
        if offset >= end:
            break
        length = body[offset]
        text = body[offset + 1 : offset + 1 + length]
        try:
            text.decode()
        except UnicodeDecodeError:
            body = body[: offset + 1] + _replaced(text) + body[offset + 1 + length :]
        offset += 1 + length
    return body


def _replaced(text: bytes) -> bytes:
    characters = text.decode(errors="surrogateescape")
    return "".join("?" if "\udc80" <= char <= "\udcff" else char for char in characters).encode()


def readable_header(body: bytes) -> bytes:
    """Returns a content header that aiormq can read."""
    reason = f"its properties have more than {_MAX_PROPERTIES} bytes"
    if len(body) <= _MAX_PROPERTIES:
        try:
            header.ContentHeader().unmarshal(body)
            return body
        except Exception as error:
            # Any exception of pamqp's would end the connection.
            reason = f"its properties cannot be read ({type(error).__name__})"
    properties = _salvaged(body, reason)
    return body[: _CONTENT_HEADER.size] + properties.marshal()


def _salvaged(body: bytes, reason: str) -> commands.Basic.Properties:
    """Reads as many properties as possible, and marks them as malformed with this reason.

    They are not marked if only the timestamp, which nobody needs, cannot be read. Headers that
    cannot be written again are left out.
    """
    properties = commands.Basic.Properties()
    headers: dict[str, Any] = {}
    is_malformed = False
    # Those of a large message are not read, unlike its other properties.
    are_headers_lost = len(body) > _MAX_PROPERTIES
    try:
        offset, flags = header.ContentHeader._get_flags(body[_CONTENT_HEADER.size :])
        offset += _CONTENT_HEADER.size
        for name in properties.__slots__:
            if not flags & properties.flags[name]:
                continue
            kind = properties.amqp_type(name)
            size = _size_of(kind, body, offset)
            value = body[offset : offset + size]
            offset += size
            if len(value) < size:
                raise ValueError("truncated")
            if name == "headers":
                try:
                    headers = {} if are_headers_lost else decode.field_table(value)[1]
                except Exception:
                    is_malformed = are_headers_lost = True
            elif name != "timestamp":
                is_malformed |= not _try_set(properties, name, kind, value)
    except Exception:
        is_malformed = are_headers_lost = True
    written = _writable(headers)
    # The number of rejections is in this header.
    are_headers_lost |= "x-death" in headers and "x-death" not in written
    headers = written
    if is_malformed or are_headers_lost:
        headers[MALFORMED_HEADER] = reason
    if are_headers_lost:
        headers[HEADERS_LOST_HEADER] = True
    properties.headers = headers
    return properties


def _writable(headers: dict[str, Any]) -> dict[str, Any]:
    """Returns the headers that can be written and read again: pamqp reads more than it writes."""
    writable = {}
    for name, value in headers.items():
        try:
            decode.field_table(encode.field_table({name: value}))
        except Exception:
            continue
        writable[name] = value
    return writable


def _size_of(kind: str, body: bytes, offset: int) -> int:
    """Returns how many bytes a property of this type takes."""
    if kind == "shortstr":
        return 1 + body[offset]
    if kind == "table":
        return 4 + int(struct.unpack_from(">I", body, offset)[0])
    return {"octet": 1, "timestamp": 8}[kind]


def _try_set(properties: commands.Basic.Properties, name: str, kind: str, value: bytes) -> bool:
    """Sets a property. Returns whether that is possible: `False` for text that is not UTF-8."""
    if kind != "shortstr":
        setattr(properties, name, value[0])
        return True
    try:
        setattr(properties, name, value[1:].decode())
        return True
    except UnicodeDecodeError:
        if name == "correlation_id" and len(value) <= _MAX_RAW_ID:
            # The answer needs it. aiormq reads it as text, and `unescaped` restores the bytes.
            setattr(properties, name, _escaped(value[1:]))
        return False


def _escaped(raw: bytes) -> str:
    return _ESCAPE + raw.hex()


def unescaped(correlation_id: str) -> str:
    """Returns a correlation id as its sender wrote it."""
    if not correlation_id.startswith(_ESCAPE):
        return correlation_id
    return RawText.of(bytes.fromhex(correlation_id.removeprefix(_ESCAPE)))
