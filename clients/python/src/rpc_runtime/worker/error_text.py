"""Shows a method's error as text, for the headers of a dead letter."""

from __future__ import annotations

import json

from ..codec import Codec, CodecError, decode


def error_text(codec: Codec, body: bytes) -> str:
    """Returns the text of an error: JSON, unless it is plain text."""
    if codec is Codec.TEXT:
        return body.decode(errors="replace")
    try:
        value = decode(codec, body)
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    except (CodecError, TypeError, ValueError):
        return "the error cannot be shown as text"
