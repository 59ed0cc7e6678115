"""Time limits: of a call, and of the method that makes it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass

from .protocol.names import MAX_TIME_TO_LIVE

ambient_deadline: ContextVar[float | None] = ContextVar("rpc_deadline", default=None)
"""The deadline of the request that this task runs a method for, in the time of the event loop.

`None` outside of methods, and if the request has no deadline or has a stream.
"""


def now() -> float:
    """Returns the time of the event loop."""
    return asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """When a wait ends, and how long it may take from its beginning, in seconds."""

    seconds: float
    deadline: float

    @staticmethod
    def of(seconds: float) -> TimeLimit:
        """Returns a limit that begins now, of at most `MAX_TIME_TO_LIVE`.

        In a method, it ends no later than the method's own deadline.
        """
        seconds = min(seconds, MAX_TIME_TO_LIVE)
        begun = now()
        ends_at = ambient_deadline.get()
        if ends_at is not None and ends_at < begun + seconds:
            return TimeLimit(max(0.0, ends_at - begun), ends_at)
        return TimeLimit(seconds, begun + seconds)

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return max(0.0, self.deadline - now())
