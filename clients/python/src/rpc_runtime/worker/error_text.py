"""Shows a method's error as text, for a header of the failed job."""

from __future__ import annotations

import json

from ..codec import Codec, CodecError, decode


def error_text(codec: Codec, body: bytes) -> str:
    """Returns an error that is text as it is, and any other as JSON.

    A fixed text stands for one that cannot be read, or that JSON cannot hold.
    """
    if codec is Codec.TEXT:
        return body.decode(errors="replace")
    try:
        value = decode(codec, body)
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    except (CodecError, TypeError, ValueError):
        return "the error cannot be shown as text"
