"""MessagePack and JSON."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import msgpack

from ..types import Form
from .content_type import Codec

# In MessagePack, an empty array has one byte, and a map of three bytes takes 250 bytes of memory.
# So a limit on the body's size hardly bounds the memory of its containers. All other values, and
# all values in JSON, take less than 30 times their size.
MAX_CONTAINERS: Final = 1024 * 1024


class CodecError(ValueError):
    """A body cannot be read or a value cannot be written: its format or its type is wrong."""


def form_of(codec: Codec) -> Form:
    """Returns the form of values in a codec. Plain text has bytes, like MessagePack."""
    return Form.JSON if codec is Codec.JSON else Form.MESSAGE_PACK


def encode(codec: Codec, value: Any) -> bytes:
    """Writes a plain value. `codec` is MessagePack or JSON: text is written by `plain_text`.

    Raises `CodecError`.
    """
    try:
        if codec is Codec.MESSAGE_PACK:
            return bytes(msgpack.packb(value, use_bin_type=True))
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"the value cannot be written: {error}") from None


def decode(codec: Codec, body: bytes, max_containers: int = MAX_CONTAINERS) -> Any:
    """Reads a plain value from MessagePack or JSON. Raises `CodecError`.

    In MessagePack, it may have at most `max_containers` arrays, maps and extensions. Timestamps do
    not count.
    """
    try:
        if codec is Codec.MESSAGE_PACK:
            return _decode_message_pack(body, max_containers)
        return json.loads(body.decode(), parse_constant=refuse_constant)
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except UnicodeDecodeError:
        raise CodecError("the text is not valid UTF-8") from None
    except (TypeError, ValueError) as error:
        # The errors of both libraries do not quote the body.
        raise CodecError(f"the body is not valid: {_reason(error)}") from None


def _decode_message_pack(body: bytes, max_containers: int) -> Any:
    # Each container has a byte at least, so those of a body this short need not be counted.
    hooks = _Containers(max_containers).hooks if len(body) > max_containers else {}
    try:
        # Other languages use any type as a key.
        return msgpack.unpackb(body, raw=False, strict_map_key=False, **hooks)
    except msgpack.ExtraData:
        raise ValueError("there are bytes after the value") from None
    except msgpack.StackError:
        raise ValueError("the value is nested too deeply") from None
    except msgpack.FormatError:
        raise ValueError("the format is not MessagePack") from None


class _Containers:
    """Counts the containers of one body while they are read, and refuses those beyond a limit."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @property
    def hooks(self) -> dict[str, Any]:
        """The arguments with which msgpack reports each container that it has read."""

        def extension(code: int, data: bytes) -> msgpack.ExtType:
            return self._count(msgpack.ExtType(code, data))

        return {"list_hook": self._count, "object_hook": self._count, "ext_hook": extension}

    def _count(self, container: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError("there are too many arrays and maps")
        return container


def refuse_constant(name: str) -> NoReturn:
    """Refuses what only Python takes for JSON: `NaN`, `Infinity` and `-Infinity`."""
    raise ValueError(f"JSON has no {name}")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at character {error.pos}"
    return str(error)[:128] or type(error).__name__
