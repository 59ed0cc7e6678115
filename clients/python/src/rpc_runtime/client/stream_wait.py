"""How long a call with items waits for its worker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..deadline import ambient_deadline, now
from ..errors import BrokerFailed, TimedOut, received_fault
from ..executed import Executed
from ..protocol.fault_code import INTERRUPTED
from ..protocol.names import MAX_SILENCE
from ..transport.delivery import Delivery
from .stream_inbox import StreamInbox
from .upload import Upload

if TYPE_CHECKING:
    from .caller import Caller


class StreamWatch:
    """Notices that a stream cannot go on: its worker, its reply queue or its connection is gone."""

    def __init__(self, caller: Caller, inbox: StreamInbox) -> None:
        self._caller = caller
        self._inbox = inbox
        session = caller.current_session
        self._address = session.epoch.address if session is not None else None

    def check(self) -> float:
        """Returns until when the worker may be silent: for ever while there is no session.

        Raises the error of a stream that cannot go on.
        """
        if self._caller.supervisor.is_closed:
            raise BrokerFailed("the connection was closed by this program", Executed.MAYBE)
        session = self._caller.current_session
        if session is None:
            return math.inf
        if self._address is None:
            self._address = session.epoch.address
        if session.epoch.address != self._address:
            raise BrokerFailed("the reply queue was lost", Executed.MAYBE)
        gone_at = self._inbox.heard_at + MAX_SILENCE
        if gone_at <= now():
            reason = f"the worker of the stream has sent nothing for {MAX_SILENCE:g} s"
            raise received_fault(INTERRUPTED, reason)
        return gone_at


async def wait_for_end(
    caller: Caller, inbox: StreamInbox, seconds: float, upload: Upload
) -> Delivery:
    """Waits for the reply to a call that sends items.

    The time limit `seconds` counts only while the worker keeps the call waiting, and begins anew
    whenever the method takes an item. It does not count while the caller's own stream has no item.
    The deadline of a method that makes the call always applies.
    """
    watch = StreamWatch(caller, inbox)
    while True:
        if inbox.failure is not None:
            raise inbox.failure
        if inbox.receiver.ended is not None:
            return inbox.receiver.ended
        gone_at = watch.check()
        deadline, waits_since = ambient_deadline.get(), upload.waits_since
        times_out_at = math.inf if deadline is None else deadline
        if waits_since is not None:
            times_out_at = min(times_out_at, max(waits_since, inbox.went_on_at) + seconds)
        if times_out_at <= now():
            raise TimedOut(seconds, Executed.MAYBE)
        # No event tells that `waits_since` has changed, so the loop looks at it each second.
        await inbox.changed(min(gone_at, times_out_at, now() + 1.0))
