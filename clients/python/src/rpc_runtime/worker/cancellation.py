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
        # What to call when a call is cancelled, by its id. An id that is used twice has several.
        self._watched: dict[bytes, list[Callable[[], None]]] = {}

    @property
    def remembered(self) -> int:
        """How many cancelled calls are remembered. For tests."""
        return len(self._cancelled)

    def cancel(self, identity: bytes, time_left: float) -> None:
        """Cancels a call, whether it runs or has yet to arrive."""
        self._cancelled.add(identity, time_left, now())
        for cancel in list(self._watched.get(identity, ())):
            cancel()

    def is_cancelled(self, correlation_id: str | None) -> bool:
        """Whether a request must not begin, because its call was cancelled before."""
        return self._cancelled.contains(uuid_of(correlation_id), now())

    def watch(self, correlation_id: str | None, cancel: Callable[[], None]) -> Callable[[], None]:
        """Has `cancel` called once the call is cancelled. Returns a function that ends this."""
        identity = uuid_of(correlation_id)
        if identity is None:
            return lambda: None
        watchers = self._watched.setdefault(identity, [])
        watchers.append(cancel)

        def stop() -> None:
            watchers.remove(cancel)
            if not watchers and self._watched.get(identity) is watchers:
                del self._watched[identity]

        return stop
