"""Cancels the methods whose callers no longer wait."""

from __future__ import annotations

from collections.abc import Callable

from ..deadline import now
from ..protocol.cancelled_calls import CancelledCalls
from ..protocol.request_id import uuid_of


class Cancellations:
    """The calls to one queue that were cancelled, and the methods that run for calls to it."""

    def __init__(self) -> None:
        self._cancelled = CancelledCalls()
        # The functions that cancel methods, by the ids of their calls. An id may be used twice.
        self._watched: dict[bytes, list[Callable[[], None]]] = {}

    @property
    def remembered(self) -> int:
        """How many cancelled calls are remembered. For tests."""
        return len(self._cancelled)

    def cancel(self, identity: bytes, time_left: float) -> None:
        """Cancels a call, whether its method runs or its request has yet to arrive.

        `time_left` is how many seconds the request may still wait in a queue.
        """
        self._cancelled.add(identity, time_left, now())
        for cancel in list(self._watched.get(identity, ())):
            cancel()

    def is_cancelled(self, correlation_id: str | None) -> bool:
        """Whether the call of a request was cancelled, as far as that is remembered."""
        return self._cancelled.contains(uuid_of(correlation_id), now())

    def watch(self, correlation_id: str | None, cancel: Callable[[], None]) -> Callable[[], None]:
        """Calls `cancel` each time the call is cancelled, until the returned function is called.

        That function must be called once. A call whose id is no UUID cannot be cancelled.
        """
        identity = uuid_of(correlation_id)
        if identity is None:
            return lambda: None
        watchers = self._watched.setdefault(identity, [])
        watchers.append(cancel)

        def stop() -> None:
            watchers.remove(cancel)
            if not watchers:
                del self._watched[identity]

        return stop
