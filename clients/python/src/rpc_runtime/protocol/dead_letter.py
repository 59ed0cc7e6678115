"""What RabbitMQ's headers say about a message that was dead-lettered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MAX_COUNT = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The history of a message that came from another queue, or again from this one."""

    has_expired: bool = False
    # How often it was dead-lettered for another reason than its expiration.
    deaths: int = 0
    # How many of these deaths were rejections.
    rejections: int = 0
    # The `expiration` in seconds, which RabbitMQ removes from a dead letter. The shortest, if it
    # had several.
    original_expiration: float | None = None


def read_dead_lettered(headers: Mapping[str, Any]) -> DeadLettered | None:
    """Reads the history. `None` if the message was not dead-lettered.

    Anybody can send these headers, so values that make no sense are ignored, with two exceptions:
    a missing or invalid count is taken as the largest one, and an unknown reason counts as a death.
    """
    entries = headers.get("x-death")
    if entries is None and "x-first-death-reason" not in headers:
        return None
    has_expired, deaths, rejections = False, 0, 0
    expirations = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        reason, count = entry.get("reason"), entry.get("count")
        number = count if isinstance(count, int) and 0 <= count <= _MAX_COUNT else _MAX_COUNT
        if reason == "expired":
            has_expired = True
        else:
            deaths = min(_MAX_COUNT, deaths + number)
        if reason == "rejected":
            rejections = min(_MAX_COUNT, rejections + number)
        expiration = entry.get("original-expiration")
        if isinstance(expiration, str) and expiration.isascii() and expiration.isdigit():
            expirations.append(int(expiration[:12]) / 1000)
    # Without `x-death`, only the reason of the first death is known.
    if not isinstance(entries, list):
        has_expired = headers.get("x-first-death-reason") == "expired"
        deaths = 0 if has_expired else 1
    return DeadLettered(has_expired, deaths, rejections, min(expirations, default=None))
