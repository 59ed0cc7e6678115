"""Makes calls over one connection: owns the reply queue and the calls that wait for replies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from ..deadline import TimeLimit
from ..errors import BrokerFailed, NoServer, Refused, TimedOut, TooManyCalls
from ..executed import Executed
from ..log_limit import LimitedLog
from ..protocol.backoff import Backoff
from ..protocol.names import CREDIT, ITEMS
from ..protocol.request_id import uuid_of
from ..protocol.resend import Resend, after_confirm, after_failed_publish, after_refusal
from ..tasks import cancel_and_wait, supervised
from ..transport.channel import Published
from ..transport.delivery import Delivery
from ..transport.errors import ChannelLost, ConnectFailed
from ..transport.separate_channels import SeparateChannels
from ..transport.supervisor import Supervisor
from .control_sender import ControlSender
from .inbox import Inbox
from .request import Request
from .session import ReplyQueue, ReplyQueueKind, Session
from .worker_header import worker_of

# How long a call waits until a new session has received the replies that waited in the queue.
_CATCH_UP: Final = 1.0
_DELETE_TIMEOUT: Final = 1.0
_NO_SERVER_PAUSE: Final = 0.2
_LOST_PAUSE: Final = 0.02


class Caller:
    """Sends the requests of one connection's calls, and passes their replies to their inboxes."""

    def __init__(
        self, supervisor: Supervisor, reply_queue: ReplyQueueKind, max_in_flight: int
    ) -> None:
        self._supervisor = supervisor
        self._replies = ReplyQueue(reply_queue)
        self._max_in_flight = max_in_flight
        self._log = LimitedLog()
        self._calls: dict[str, Inbox] = {}
        self._session: Session | None = None
        self._session_began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Why there is no session. Empty if there is one, or none was opened yet.
        self._problem = ""
        self._separate = SeparateChannels(supervisor)
        self.control = ControlSender(supervisor, self._log)

    @property
    def supervisor(self) -> Supervisor:
        """The owner of the connection."""
        return self._supervisor

    @property
    def current_session(self) -> Session | None:
        """The open session. `None` before the first call has opened one, and after a loss."""
        return self._session

    @property
    def in_flight(self) -> int:
        """How many calls have begun and not ended. One-way calls do not count."""
        return len(self._calls)

    @contextlib.contextmanager
    def registered(self, correlation_id: str, inbox: Inbox) -> Iterator[None]:
        """Calls `register`, and `forget` at the end of the block."""
        self.register(correlation_id, inbox)
        try:
            yield
        finally:
            self.forget(correlation_id)

    def register(self, correlation_id: str, inbox: Inbox) -> None:
        """Lets an inbox receive the messages for a call until `forget`. Raises `TooManyCalls`."""
        if len(self._calls) >= self._max_in_flight:
            raise TooManyCalls(self._max_in_flight)
        self._calls[correlation_id] = inbox
        self._start()

    def forget(self, correlation_id: str) -> None:
        """Discards further messages for a call."""
        self._calls.pop(correlation_id, None)

    async def _run(self) -> None:
        """Opens a session, and the next one whenever it is lost, until the connection is closed."""
        backoff = Backoff()
        while True:
            try:
                link = await self._supervisor.link()
                session = await self._replies.open(link, self._on_reply)
            except ConnectFailed:
                return
            except ChannelLost as error:
                self._problem = error.reason
                self._log.report("replies", f"cannot receive replies: {error.reason}")
                await asyncio.sleep(backoff.next_pause())
                continue
            backoff.reset()
            self._problem = ""
            self._session = session
            self._session_began.set()
            for inbox in self._calls.values():
                inbox.reconnected()
            try:
                self._problem = await session.lost()
            finally:
                self._session = None
                self._session_began.clear()
                session.is_lost = True
                for inbox in self._calls.values():
                    inbox.wake()
                await session.close()
            # The supervisor's task must learn first that the connection is lost.
            await asyncio.sleep(0)

    def _on_reply(self, delivery: Delivery) -> None:
        """Passes a message of the reply queue to the inbox of its call."""
        message = delivery.message
        inbox = self._calls.get(message.correlation_id or "")
        if inbox is not None:
            inbox.receive(delivery)
            return
        # The call has ended. A late reply is ignored, but a stream would go on.
        if message.type in (ITEMS, CREDIT):
            self.end_unread_stream(delivery)

    def end_unread_stream(self, delivery: Delivery) -> None:
        """Ends a stream that nobody here reads, at the worker that sent this message of it.

        Does nothing if the message does not name its worker, or its correlation id is no UUID.
        """
        worker, identity = worker_of(delivery), uuid_of(delivery.message.correlation_id)
        if worker is not None and identity is not None:
            self.control.end_unread_stream(worker, identity)

    async def session(self, limit: TimeLimit, executed: Executed) -> Session:
        """Waits for a session. Raises `TimedOut` or `BrokerFailed` with this `executed`."""
        while self._session is None:
            if self._supervisor.is_closed:
                raise BrokerFailed("the connection was closed by this program", executed)
            try:
                async with asyncio.timeout_at(limit.deadline):
                    await self._session_began.wait()
            except TimeoutError:
                reason = self._supervisor.problem or self._problem
                raise TimedOut(limit.seconds, executed, reason) from None
        return self._session

    async def send(self, request: Request, inbox: Inbox, limit: TimeLimit) -> None:
        """Sends a request, and waits until its inbox has a message of a worker, or a failure.

        `protocol.resend` decides whether a request that was lost or refused is sent again. One that
        was returned is sent again if it waits for its queue. Raises the error of a call that cannot
        go on.
        """
        is_idempotent = request.method.is_idempotent
        refusals = Backoff(0.05, 1.0)
        while not inbox.has_begun:
            session = await self.session(limit, _executed(request))
            try:
                published = await self._publish(request, session, limit)
            except ChannelLost as error:
                if inbox.has_begun:
                    return
                request.may_have_run |= error.is_written
                if _after_loss(request, error) is Resend.FAIL:
                    raise BrokerFailed(error.reason, _executed(request)) from None
                # Another task is about to replace the session.
                await asyncio.sleep(_LOST_PAUSE)
                continue
            if published is Published.RETURNED:
                await self._pause_after_return(request, limit)
            elif published is Published.REFUSED:
                request.may_have_run = True
                if after_refusal(is_idempotent) is Resend.FAIL:
                    raise Refused(request.queue)
                await self._pause_after_refusal(refusals.next_pause(), limit)
            else:
                request.may_have_run = True
                await self._wait_for_reply(request, inbox, session, limit)

    async def _publish(self, request: Request, session: Session, limit: TimeLimit) -> Published:
        """Publishes a request once.

        Raises `ChannelLost`, `TimedOut` if it takes too long, or `BrokerFailed` if the connection
        was closed for good.
        """
        try:
            async with asyncio.timeout_at(limit.deadline):
                await session.publisher.unblocked()
        except TimeoutError:
            reason = "the broker blocks publishers"
            raise TimedOut(limit.seconds, _executed(request), reason) from None
        if limit.left <= 0:
            # This is so from the start if the method that makes this call has passed its deadline.
            raise TimedOut(limit.seconds, _executed(request), "the deadline has passed")
        if request.method.is_oneway:
            message = request.message(None, None)
        else:
            message = request.message(session.reply_to, limit.left)
        request.times_sent += 1
        try:
            async with asyncio.timeout_at(limit.deadline):
                # If it may have closed a channel, it is sent on one of its own.
                if request.channels_closed:
                    return await self._separate.publish(message, request.queue, is_mandatory=True)
                return await session.publisher.publish(
                    message, queue=request.queue, is_mandatory=True
                )
        except TimeoutError:
            request.may_have_run = True
            raise TimedOut(limit.seconds, Executed.MAYBE, "it is not confirmed") from None
        except ChannelLost as error:
            if not error.is_written:
                request.times_sent -= 1
            raise
        except ConnectFailed as error:
            request.times_sent -= 1
            raise BrokerFailed(str(error), _executed(request)) from None

    async def _pause_after_return(self, request: Request, limit: TimeLimit) -> None:
        """Pauses after the broker has returned a request, because its queue does not exist.

        The attempt does not count as sent. Raises `NoServer` if the call does not wait for its
        queue, or has no time left for the pause.
        """
        request.times_sent -= 1
        if not request.waits_for_server or limit.left <= _NO_SERVER_PAUSE:
            error = NoServer(request.queue)
            error.executed = _executed(request)
            raise error
        await asyncio.sleep(_NO_SERVER_PAUSE)

    async def _wait_for_reply(
        self, request: Request, inbox: Inbox, session: Session, limit: TimeLimit
    ) -> None:
        """Waits until the inbox has begun, or the confirmed request must be sent again."""
        is_idempotent, sent_in = request.method.is_idempotent, session.epoch
        while True:
            while not inbox.has_begun and not session.is_lost:
                if limit.left <= 0:
                    raise TimedOut(limit.seconds, Executed.MAYBE)
                await inbox.changed(limit.deadline)
            if inbox.has_begun:
                return
            # The session is lost. The next one first gets the replies that arrived meanwhile, and
            # the one to this call may be among them.
            session = await self.session(limit, Executed.MAYBE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP):
                    await session.caught_up.wait()
            if inbox.has_begun:
                return
            decision = after_confirm(is_idempotent, sent_in, session.epoch)
            if decision is Resend.SEND:
                return
            if decision is Resend.FAIL:
                raise BrokerFailed("the reply queue was lost", Executed.MAYBE)

    @staticmethod
    async def _pause_after_refusal(seconds: float, limit: TimeLimit) -> None:
        """Pauses after the broker has refused a request. Raises `TimedOut` at the limit."""
        if limit.left <= seconds:
            await asyncio.sleep(limit.left)
            raise TimedOut(limit.seconds, Executed.MAYBE, "the broker refuses the request")
        await asyncio.sleep(seconds)

    async def send_oneway(self, request: Request, limit: TimeLimit) -> None:
        """Sends a request that has no reply. Returns once the broker has confirmed it.

        Sends it again in the same cases as `send`.
        """
        is_idempotent = request.method.is_idempotent
        refusals = Backoff(0.05, 1.0)
        self._start()
        while True:
            session = await self.session(limit, _executed(request))
            try:
                published = await self._publish(request, session, limit)
            except ChannelLost as error:
                request.may_have_run |= error.is_written
                if _after_loss(request, error) is Resend.FAIL:
                    raise BrokerFailed(error.reason, _executed(request)) from None
                # Another task is about to replace the session.
                await asyncio.sleep(_LOST_PAUSE)
                continue
            if published is Published.CONFIRMED:
                return
            if published is Published.RETURNED:
                await self._pause_after_return(request, limit)
                continue
            request.may_have_run = True
            if after_refusal(is_idempotent) is Resend.FAIL:
                raise Refused(request.queue)
            await self._pause_after_refusal(refusals.next_pause(), limit)

    def _start(self) -> None:
        if self._task is None:
            run = supervised("replies", self._run)
            self._task = asyncio.get_running_loop().create_task(run, name="rpc replies")

    async def close(self) -> None:
        """Sends the last cancellations, deletes the reply queue, and wakes all calls.

        They find the connection closed, because `Connection.close` closes it before they run.
        """
        await self.control.close()
        is_connected = self._session is not None
        await cancel_and_wait(self._task)
        if is_connected:
            with contextlib.suppress(ChannelLost, ConnectFailed, TimeoutError):
                async with asyncio.timeout(_DELETE_TIMEOUT):
                    await self._replies.delete(await self._supervisor.link())
        # For those that wait for a session.
        self._session_began.set()
        for inbox in list(self._calls.values()):
            inbox.wake()


def _after_loss(request: Request, error: ChannelLost) -> Resend:
    """Counts a loss that the request may have caused. Decides whether to send that again."""
    if error.is_alone:
        request.channels_closed += 1
    return after_failed_publish(
        request.method.is_idempotent, error.is_written, request.channels_closed
    )


def _executed(request: Request) -> Executed:
    """Whether the method of a call that fails now may have run."""
    return Executed.MAYBE if request.may_have_run else Executed.NO
