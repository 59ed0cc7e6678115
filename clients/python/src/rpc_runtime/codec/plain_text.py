"""Plain text: a scalar without quotes. Other values are JSON."""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

from .bodies import CodecError, refuse_constant

# The floats that JSON does not have, as Rust reads them.
_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)


def encode(value: Any) -> bytes:
    """Writes a plain value as text. Values with structure become JSON. Raises `CodecError`."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if value is None:
        return b""
    if isinstance(value, float) and not math.isfinite(value):
        return b"NaN" if math.isnan(value) else f"{value}".encode()
    try:
        if isinstance(value, str):
            return value.encode()
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except RecursionError:
        raise CodecError("the value is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise CodecError(f"the value cannot be written: {error}") from None


def candidates(body: bytes) -> list[Any]:
    """Returns the plain values that a text may stand for, in the order in which to try them."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return [body]
    # `encode` writes `None` as an empty text, for a method that returns nothing. So it comes first.
    values: list[Any] = [text] if text else [None, text]
    stripped = text.strip()
    if stripped in ("true", "false"):
        values.append(stripped == "true")
    # Before the JSON: bytes are taken as they are, even if they look like an array of numbers.
    values.append(body)
    if _NOT_FINITE.fullmatch(stripped):
        values.append(float(stripped))
    with contextlib.suppress(ValueError, RecursionError):
        values.append(json.loads(stripped, parse_constant=refuse_constant))
    return values


def wrong_type() -> CodecError:
    """Makes the error of a text of which no candidate has the expected type."""
    return CodecError("the text cannot be read as a value of this type")
