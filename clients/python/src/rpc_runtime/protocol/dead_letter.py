"""What RabbitMQ's headers say about a message that was dead-lettered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_COUNT = (1 << 32) - 1


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
    an invalid count is taken as the largest one, and an unknown reason counts as a death.
    """
    if "x-death" not in headers and "x-first-death-reason" not in headers:
        return None
    entries = headers.get("x-death")
    has_expired, deaths, rejections = False, 0, 0
    expirations = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        reason = entry.get("reason")
        if not isinstance(reason, str):
            continue
        number = _count_of(entry)
        if reason == "expired":
            has_expired = True
        else:
            deaths = min(MAX_COUNT, deaths + number)
        if reason == "rejected":
            rejections = min(MAX_COUNT, rejections + number)
        expiration = entry.get("original-expiration")
        if isinstance(expiration, str) and expiration.isascii() and expiration.isdigit():
            expirations.append(int(expiration[:12]) / 1000)
    # The entries include the first death, but they may be missing or unreadable. So its reason
    # counts as one death, unless that would count it twice.
    first = headers.get("x-first-death-reason")
    if first == "expired":
        has_expired = True
    elif isinstance(first, str) and deaths == 0:
        deaths = 1
        rejections = 1 if first == "rejected" else 0
    return DeadLettered(has_expired, deaths, rejections, min(expirations, default=None))


def _count_of(entry: Mapping[str, Any]) -> int:
    """Returns how many deaths an entry stands for: one if it does not say.

    An invalid count may be forged so that it never reaches a limit, however often the broker
    increments it. So it is taken as the largest one.
    """
    count = entry.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        return MAX_COUNT
    return min(count, MAX_COUNT)
