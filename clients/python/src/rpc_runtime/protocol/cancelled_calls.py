"""The calls that their callers no longer wait for, as a worker remembers them."""

from __future__ import annotations

from collections import OrderedDict

from .names import MAX_TIME_TO_LIVE

_MAX_REMEMBERED = 16_384
# A request's time to live begins when the broker gets it. Its caller counts from an earlier time.
_GRACE_PERIOD = 10.0


class CancelledCalls:
    """The ids of cancelled calls, each for a little longer than its request can wait.

    Beyond a maximum number, the oldest are forgotten before.
    """

    def __init__(self) -> None:
        # Until when each id is remembered, in the order in which the ids were first added.
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, identity: bytes, time_left: float, now: float) -> None:
        """Remembers a call whose request can wait for `time_left` seconds.

        Forgets the oldest ones whose time is over, and another one if there are too many.
        """
        until = now + min(time_left, MAX_TIME_TO_LIVE) + _GRACE_PERIOD
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        if identity not in self._until and len(self._until) >= _MAX_REMEMBERED:
            self._until.popitem(last=False)
        self._until[identity] = until

    def contains(self, identity: bytes | None, now: float) -> bool:
        """Whether the call is remembered as cancelled."""
        return identity is not None and self._until.get(identity, now) > now
