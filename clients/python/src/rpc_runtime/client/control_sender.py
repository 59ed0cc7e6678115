"""Sends what a caller tells workers through the control exchange: cancellations and credit."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque

from ..deadline import now
from ..log_limit import LimitedLog
from ..protocol.item_messages import write_cancellations, write_grant
from ..protocol.message import Message
from ..protocol.names import CANCEL, CONTROL_EXCHANGE, CREDIT
from ..protocol.volume import Volume
from ..tasks import TaskSet, cancel_and_wait, supervised
from ..transport.channel import Published
from ..transport.errors import ChannelLost, ConnectFailed, Forbidden, NotFound
from ..transport.lazy_channel import LazyChannel
from ..transport.supervisor import Supervisor

_MAX_WAITING = 16_384
# How many cancelled calls a message may name.
_MAX_CALLS = 1024
# In milliseconds: how long a cancellation may wait in the queue of a worker.
_EXPIRATION = "5000"
_SEND_TIMEOUT = 5.0
# Nothing is sent for this long after the broker has refused a message for lack of permission.
_FORBIDDEN_PAUSE = 30.0
# How long the last cancellations may take when the connection is closed.
_CLOSE_TIMEOUT = 1.0
_GRANT_TIMEOUT = 10.0
_FIRST_GRANT_PAUSE = 0.05
_MAX_GRANTS = 4096
# Each message of a stream that nobody reads would end it again. Once in this time is enough.
_UNREAD_PAUSE = 3.0
_MAX_UNREAD = 1024


class ControlSender:
    """Owns the channel for control messages and the task that sends cancellations.

    No message is certain to arrive. A cancellation only saves work, and a worker without credit
    asks for it again.
    """

    def __init__(self, supervisor: Supervisor, log: LimitedLog) -> None:
        self._supervisor = supervisor
        self._log = log
        # Cancellations to send: the routing key, the id of the call, and for how many milliseconds
        # its request can still wait. If there are too many, the oldest are dropped.
        self._waiting: deque[tuple[str, bytes, int]] = deque(maxlen=_MAX_WAITING)
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._channel = LazyChannel(supervisor)
        self._grants = TaskSet("grant")
        # The latest credit of each stream, by worker and id, while it is being sent.
        self._granting: dict[tuple[str, bytes], Volume] = {}
        self._forbidden_until = 0.0
        # Streams that were ended a moment ago, and until when they are not ended again.
        self._unread: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def cancel(self, key: str, identity: bytes, time_left: float) -> None:
        """Tells workers in the background that nobody waits for a call.

        `key` is the queue of its workers or, to end a stream, the id of one worker. The request can
        still wait for `time_left` seconds.
        """
        if self._supervisor.is_closed:
            return
        self._waiting.append((key, identity, int(time_left * 1000)))
        self._has_work.set()
        self._is_idle.clear()
        if self._task is None:
            run = supervised("cancellations", self._run)
            self._task = asyncio.get_running_loop().create_task(run, name="rpc cancellations")

    def end_unread_stream(self, worker: str, identity: bytes) -> None:
        """Ends a stream that nobody reads, unless it or too many others were just ended."""
        key, current = (worker, identity), now()
        # The earliest time is first, because the pause is the same for all.
        while self._unread and next(iter(self._unread.values())) <= current:
            self._unread.popitem(last=False)
        if key in self._unread or len(self._unread) >= _MAX_UNREAD:
            return
        self._unread[key] = current + _UNREAD_PAUSE
        self.cancel(worker, identity, 0)

    def grant(self, worker: str, identity: bytes, credit: Volume) -> None:
        """Tells a worker in the background how much of a stream it may send in total."""
        key = (worker, identity)
        is_sending = key in self._granting
        if self._supervisor.is_closed or (not is_sending and len(self._granting) >= _MAX_GRANTS):
            # Dropped. The worker's next message without items asks for it again.
            return
        self._granting[key] = credit
        if not is_sending:
            self._grants.spawn(self._send_grant(key))

    async def _send_grant(self, key: tuple[str, bytes]) -> None:
        """Sends the latest credit of a stream until it is confirmed, or takes too long."""
        worker, identity = key
        pause, deadline = _FIRST_GRANT_PAUSE, now() + _GRANT_TIMEOUT
        try:
            while now() < deadline:
                credit = self._granting[key]
                message = Message(write_grant(identity, credit), type=CREDIT)
                published = await self._publish(worker, message, is_mandatory=True)
                if published is not Published.CONFIRMED:
                    # A worker that is connecting again has no queue for a moment.
                    await asyncio.sleep(pause)
                    pause = min(1.0, 2 * pause)
                elif self._granting[key] == credit:
                    return
                # Otherwise, more was granted meanwhile, and the loop sends that.
        finally:
            self._granting.pop(key, None)

    async def _run(self) -> None:
        """Sends the cancellations that wait, grouped by their routing keys, once each."""
        while True:
            if not self._has_work.is_set():
                self._is_idle.set()
            await self._has_work.wait()
            # Lets other calls that end now share the message.
            await asyncio.sleep(0)
            self._has_work.clear()
            by_key: dict[str, list[tuple[bytes, int]]] = {}
            while self._waiting:
                key, identity, millis = self._waiting.popleft()
                by_key.setdefault(key, []).append((identity, millis))
            for key, calls in by_key.items():
                for first in range(0, len(calls), _MAX_CALLS):
                    body = write_cancellations(calls[first : first + _MAX_CALLS])
                    message = Message(body, type=CANCEL, expiration=_EXPIRATION)
                    await self._publish(key, message, is_mandatory=False)

    async def _publish(self, key: str, message: Message, *, is_mandatory: bool) -> Published | None:
        """Publishes a message. `None` if that fails, takes too long, or was just forbidden."""
        if now() < self._forbidden_until:
            return None
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                return await self._channel.publish(
                    message, queue=key, exchange=CONTROL_EXCHANGE, is_mandatory=is_mandatory
                )
        except NotFound:
            # No worker has declared the exchange, so no worker can be told anything.
            return None
        except Forbidden:
            self._forbidden_until = now() + _FORBIDDEN_PAUSE
            text = (
                "calls cannot be cancelled, and streams get no credit: "
                "the user may not write to the exchange rpc.control"
            )
            self._log.report("control", text)
            return None
        except (ChannelLost, ConnectFailed, TimeoutError):
            return None

    async def close(self) -> None:
        """Sends the last cancellations, and stops."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._is_idle.wait()
        await self._grants.cancel()
        await cancel_and_wait(self._task)
        await self._channel.close()
