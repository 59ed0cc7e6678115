"""MessagePack and JSON."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import msgpack

from ..types import Form
from .content_type import Codec

# A byte of MessagePack can be a list, and three can be a dictionary of 250 bytes, so the limit of a
# body's size does not bound them. All else, and JSON, needs less than 30 times its size in memory.
MAX_CONTAINERS: Final = 1024 * 1024


class CodecError(ValueError):
    """Bytes that are not in their codec, or a value that cannot be written in it."""


def form_of(codec: Codec) -> Form:
    """Returns the form of values in a codec. Plain text holds bytes as they are."""
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

    In MessagePack, it may have at most `max_containers` arrays, maps and extensions.
    """
    try:
        if codec is Codec.MESSAGE_PACK:
            return _decode_message_pack(body, max_containers)
        return json.loads(body.decode(), parse_constant=_refuse)
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except UnicodeDecodeError:
        raise CodecError("the text is not valid UTF-8") from None
    except (TypeError, ValueError) as error:
        # The errors of both libraries say where, and quote nothing.
        raise CodecError(f"the body is not valid: {_reason(error)}") from None


def _decode_message_pack(body: bytes, max_containers: int) -> Any:
    # Each container has a byte at least, so most bodies need not be counted.
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
    """Counts the containers of one body while they are read."""

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


def _refuse(name: str) -> NoReturn:
    """Is called for what only Python takes for JSON: `NaN` and `Infinity`."""
    raise ValueError(f"JSON has no {name}")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at character {error.pos}"
    return str(error)[:128] or type(error).__name__
