"""Correlation ids that are UUIDs."""

from __future__ import annotations

import uuid


def new_id() -> str:
    """Makes the id of a request: a random UUID."""
    return str(uuid.uuid4())


def uuid_of(text: str | None) -> bytes | None:
    """Returns the 16 bytes of a UUID. `None` unless it is in lower case with hyphens."""
    if text is None or len(text) != 36:
        return None
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed.bytes if str(parsed) == text else None


def text_of(identity: bytes) -> str:
    """Returns the text of a UUID."""
    return str(uuid.UUID(bytes=identity))
