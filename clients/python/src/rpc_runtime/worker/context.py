"""What a method can learn about its request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Context:
    """The request that a method serves."""

    method: str
    # The correlation id.
    request_id: str | None
    # Without those of RabbitMQ and of this library.
    headers: Mapping[str, str]
    # In the time of `clock`. `None` without a time limit, and for a request with a stream.
    deadline: float | None
    # Whether the request was redelivered or dead-lettered, so that the method may have run before.
    is_redelivered: bool
    # The number of the attempt of a job, from 1.
    attempt: int = 1
    app_id: str | None = None
    # The caller's RabbitMQ user, if the caller sets the property. A retried job has none.
    user_id: str | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the call is cancelled, or the caller of a stream is gone.

    The deadline does not set it, and nothing does in a broadcast.
    """
    # That of the event loop, kept for threads of the method: they have no loop to ask.
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @property
    def time_left(self) -> float | None:
        """How many seconds are left until the deadline. `None` if there is none.

        Threads that the method starts with `asyncio.to_thread` may ask for it too.
        """
        return None if self.deadline is None else max(0.0, self.deadline - self.clock())


current: ContextVar[Context] = ContextVar("rpc_context")


def context() -> Context:
    """Returns the context of the method that runs here. Raises `LookupError` outside of one."""
    try:
        return current.get()
    except LookupError:
        raise LookupError("there is no request here: call this within a method") from None
