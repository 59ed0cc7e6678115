"""Messages as this library sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Headers = dict[str, Any]

# The largest `expiration` that RabbitMQ allows: ten years, in milliseconds.
_MAX_EXPIRATION = 315_360_000_000


@dataclass(slots=True)
class Message:
    """A message: its properties and its body. `expiration` is in milliseconds, as text."""

    body: bytes = b""
    type: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    is_persistent: bool = False
    priority: int | None = None
    app_id: str | None = None
    user_id: str | None = None
    headers: Headers = field(default_factory=dict)

    @property
    def expects_reply(self) -> bool:
        """Whether its sender wants a reply."""
        return bool(self.reply_to)

    @property
    def time_to_live(self) -> float | None:
        """The `expiration` in seconds.

        `None` if there is none, or if it is not a number of milliseconds that RabbitMQ allows, at
        most ten years.
        """
        text = self.expiration or ""
        if not text.isascii() or not text.isdigit():
            return None
        millis = int(text)
        return millis / 1000 if millis <= _MAX_EXPIRATION else None


def text_headers(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """Reads headers that are text, numbers, booleans or timestamps, all as text.

    The text of a timestamp is a whole number of seconds since 1970. Other types are ignored.
    """
    texts: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if isinstance(value, bool):
            texts[name] = "true" if value else "false"
        elif isinstance(value, str):
            texts[name] = value
        elif isinstance(value, int | float):
            texts[name] = str(value)
        elif isinstance(value, datetime):
            texts[name] = str(int(value.timestamp()))
    return texts


def header_number(headers: Mapping[str, Any], name: str, default: int = 0) -> int:
    """Reads a header that holds a whole number of at least 0, also as text.

    Returns the default if it is missing or anything else.
    """
    value = headers.get(name)
    if isinstance(value, bool):
        return default
    if isinstance(value, int):
        return value if value >= 0 else default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return default


def expiration_of(seconds: float) -> str:
    """Writes a remaining time: at least a millisecond, because with 0 the broker may drop it."""
    return str(max(1, int(seconds * 1000)))
