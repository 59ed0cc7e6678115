"""MessagePack and JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgpack

from ..types import Form
from .content_type import Codec


class CodecError(ValueError):
    """Bytes that are not in their codec, or a value that cannot be written in it."""


def form_of(codec: Codec) -> Form:
    """Returns the form of values in a codec. Plain text holds bytes as they are."""
    return Form.JSON if codec is Codec.JSON else Form.MESSAGE_PACK


def encode(codec: Codec, value: Any) -> bytes:
    """Writes a plain value in MessagePack or JSON."""
    try:
        if codec is Codec.MESSAGE_PACK:
            return bytes(msgpack.packb(value, use_bin_type=True))
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"the value cannot be written: {error}") from None


def decode(codec: Codec, body: bytes) -> Any:
    """Reads a plain value from MessagePack or JSON."""
    try:
        if codec is Codec.MESSAGE_PACK:
            return _decode_message_pack(body)
        return json.loads(body.decode(), parse_constant=_refuse)
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except UnicodeDecodeError:
        raise CodecError("the text is not valid UTF-8") from None
    except (TypeError, ValueError) as error:
        # The errors of both libraries say where, and quote nothing.
        raise CodecError(f"the body is not valid: {_reason(error)}") from None


def _decode_message_pack(body: bytes) -> Any:
    try:
        # Other languages use any type as a key.
        return msgpack.unpackb(body, raw=False, strict_map_key=False)
    except msgpack.ExtraData:
        raise ValueError("there are bytes after the value") from None
    except msgpack.StackError:
        raise ValueError("the value is nested too deeply") from None
    except msgpack.FormatError:
        raise ValueError("the format is not MessagePack") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()} at byte {error.pos}"
    return str(error)[:128] or type(error).__name__
