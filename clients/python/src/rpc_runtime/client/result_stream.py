"""A stream that a method returns, as its caller reads it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from ..codec import Codec
from ..deadline import TimeLimit
from ..describe import Method
from ..errors import BadReply, BrokerFailed, Fault, Refused, RpcError, TimedOut
from ..executed import Executed
from ..protocol.backoff import Backoff
from ..protocol.fault_code import INTERRUPTED
from ..protocol.item_sender import ItemSender
from ..protocol.message import header_number
from ..protocol.names import (
    CREDIT_BYTES_HEADER,
    CREDIT_HEADER,
    INCOMING_HEADER,
    ITEMS_HEADER,
)
from ..protocol.request_id import uuid_of
from ..protocol.volume import Volume
from ..tasks import cancel_and_wait
from ..transport.delivery import Delivery
from .calls import cancel_call
from .options import CallOptions
from .reply_reader import ReplyReader
from .request import Request
from .stream_inbox import StreamInbox
from .stream_wait import StreamWatch
from .upload import Upload

if TYPE_CHECKING:
    from ..connection import Connection

R = TypeVar("R")


class _StreamCall:
    """One call, from its request to the end of its stream.

    A `ResultStream` that is resumed makes several, one after the other. The constructor registers
    the inbox, so it may raise `TooManyCalls`.
    """

    def __init__(
        self,
        connection: Connection,
        request: Request,
        options: CallOptions,
        items: AsyncIterable[Any] | Iterable[Any] | None,
    ) -> None:
        self._connection = connection
        self._caller = connection.caller
        self.request = request
        self._window = Volume(options.credit, options.credit_bytes)
        request.headers[CREDIT_HEADER] = str(options.credit)
        request.headers[CREDIT_BYTES_HEADER] = str(options.credit_bytes)
        sender = None
        if items is not None:
            sender = ItemSender()
            request.headers[INCOMING_HEADER] = "1"
        self.inbox = StreamInbox(connection.caller, request.correlation_id, self._window, sender)
        self.reader = ReplyReader(request.method, request.codec, connection.max_accepted_bytes)
        self._upload = None if items is None else Upload(connection, request, items, self.inbox)
        self._upload_task: asyncio.Task[None] | None = None
        self._watch: StreamWatch | None = None
        self._codec: Codec | None = None
        self._is_over = False
        # Until when the request can wait in its queue. `None` before `begin`.
        self._limit: TimeLimit | None = None
        self._caller.register(request.correlation_id, self.inbox)

    async def begin(self, limit: TimeLimit) -> None:
        """Sends the request, waits for the first message or a failure, and starts the upload."""
        self._limit = limit
        await self._caller.send(self.request, self.inbox, limit)
        self._watch = StreamWatch(self._caller, self.inbox)
        if self._upload is not None and self.inbox.receiver.ended is None:
            run = self._upload.run()
            self._upload_task = asyncio.get_running_loop().create_task(run, name="rpc upload")

    async def next(self, limit: TimeLimit) -> bytes | Delivery:
        """Waits for the next item, which is in bytes, or for the reply that ends the stream."""
        inbox, receiver = self.inbox, self.inbox.receiver
        while True:
            item = receiver.take()
            if item is not None:
                self._grant()
                return item
            if inbox.failure is not None:
                raise inbox.failure
            if receiver.ended is not None:
                return receiver.ended
            if self._watch is None:
                raise RuntimeError("the stream has not begun")
            gone_at = self._watch.check()
            if limit.left <= 0:
                raise TimedOut(limit.seconds, Executed.MAYBE)
            await inbox.changed(min(limit.deadline, gone_at))

    def _grant(self) -> None:
        """Grants further credit once the reader has used half of it."""
        credit = self.inbox.receiver.next_grant()
        worker, identity = self.inbox.worker, uuid_of(self.request.correlation_id)
        if credit is not None and worker is not None and identity is not None:
            self._caller.control.grant(worker, identity, credit)

    def codec(self) -> Codec:
        """Returns the codec of the items."""
        if self._codec is None:
            first = self.inbox.first_message
            self._codec = self.request.codec if first is None else self.reader.codec_of_items(first)
        return self._codec

    def abandon(self, has_reply: bool) -> None:
        """Ends the call without waiting for anything. Cancels it unless its reply has arrived."""
        if self._is_over:
            return
        self._is_over = True
        self._caller.forget(self.request.correlation_id)
        if self._upload_task is not None:
            self._upload_task.cancel()
        if not has_reply and self._limit is not None:
            cancel_call(self._connection, self.request, self._limit.left)

    async def close(self, has_reply: bool) -> None:
        """Ends the call as `abandon` does, then waits for the upload's tasks.

        `has_reply` is ignored if the call was abandoned before.
        """
        self.abandon(has_reply)
        await cancel_and_wait(self._upload_task)
        if self._upload is not None:
            # `Upload.run` closes it too, unless that never began or was cancelled again meanwhile.
            await self._upload.close()


class ResultStream(Generic[R]):
    """The items of a stream. Nothing is sent before the first one is awaited.

    `aclose` ends the stream early. So does the end of `async with`, or of the last reference to it.
    """

    def __init__(
        self,
        connection: Connection,
        method: Method[R],
        arguments: tuple[Any, ...],
        make_request: Callable[[tuple[Any, ...]], Request],
        options: CallOptions,
        timeout: float,
        *,
        items: AsyncIterable[Any] | Iterable[Any] | None = None,
    ) -> None:
        self._connection = connection
        self._method = method
        self._arguments = arguments
        self._make_request = make_request
        self._options = options
        self._timeout = timeout
        self._items = items
        self._call: _StreamCall | None = None
        self._is_over = False
        # The unread items of a worker that has sent all of them in one reply.
        self._rest: deque[R] = deque()
        # The item that was last read, with which an interrupted stream is resumed.
        self._last: Any = None
        self._has_last = False
        # Whether the stream was interrupted, and no item was read since.
        self._is_resuming = False
        self._backoff = Backoff(0.025, 2.0)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        if self._rest:
            return self._rest.popleft()
        if self._is_over:
            raise StopAsyncIteration
        limit = TimeLimit.of(self._timeout)
        try:
            while True:
                try:
                    item = await self._next(limit)
                    self._is_resuming = False
                    self._backoff.reset()
                    return item
                except RpcError as error:
                    await self._resume_or_raise(error, limit)
        except BaseException:
            self._is_over = True
            call, self._call = self._call, None
            if call is not None:
                # If `_end` has raised this, it has abandoned the call, and `has_reply` is ignored.
                await call.close(has_reply=False)
            raise

    async def _next(self, limit: TimeLimit) -> R:
        """Waits for the next item of the current call. Makes that call if there is none.

        Raises `StopAsyncIteration` at the end.
        """
        if self._call is None:
            request = self._make_request(self._arguments)
            self._call = _StreamCall(self._connection, request, self._options, self._items)
            await self._call.begin(limit)
        call = self._call
        arrived = await call.next(limit)
        if isinstance(arrived, bytes):
            item: R = call.reader.item(arrived, call.codec())
            self._last, self._has_last = item, True
            return item
        return self._end(call, arrived)

    def _end(self, call: _StreamCall, reply: Delivery) -> R:
        """Ends the stream with its reply: raises an error, or `StopAsyncIteration`.

        If the worker has sent all items in this reply, it returns the first one instead.
        """
        call.abandon(has_reply=True)
        codec = call.reader.codec_of(reply)
        call.reader.raise_failure(reply, codec, call.request.times_sent)
        message = reply.message
        if ITEMS_HEADER in message.headers:
            if header_number(message.headers, ITEMS_HEADER, -1) < 0 or message.body:
                raise BadReply("the reply is not the end of the stream", Executed.MAYBE)
            raise StopAsyncIteration
        self._rest.extend(call.reader.all_items(reply))
        self._is_over = True
        if not self._rest:
            raise StopAsyncIteration
        return self._rest.popleft()

    async def _resume_or_raise(self, error: RpcError, limit: TimeLimit) -> None:
        """Prepares the next call of a stream that can be resumed, and pauses. Or raises the error.

        `_next` makes that call.
        """
        call = self._call
        has_begun = call is not None and call.inbox.worker is not None
        if not self._can_resume() or not _is_interruption(error, has_begun, self._is_resuming):
            raise error
        pause = max(self._backoff.next_pause(), getattr(error, "retry_after", None) or 0.0)
        if limit.left <= pause:
            raise error
        self._is_resuming = True
        self._call = None
        if call is not None:
            await call.close(has_reply=False)
        if self._has_last:
            self._arguments = tuple(
                self._last if argument.name == self._method.resume else value
                for argument, value in zip(self._method.arguments, self._arguments, strict=True)
            )
        await asyncio.sleep(pause)

    def _can_resume(self) -> bool:
        """Whether another call can go on after the last item that was read."""
        # The caller's items cannot be read a second time.
        if self._method.resume is None or self._items is not None:
            return False
        # As the argument, an item that is `None` would begin the stream anew.
        if self._has_last and self._last is None:
            return False
        return not self._connection.is_closed

    async def aclose(self) -> None:
        """Ends the stream, and its method if that still runs."""
        self._is_over = True
        self._rest.clear()
        call, self._call = self._call, None
        if call is not None:
            await call.close(has_reply=call.inbox.receiver.ended is not None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Missing if the constructor failed.
        call = getattr(self, "_call", None)
        # Raised if no event loop runs any more.
        with contextlib.suppress(RuntimeError):
            if call is not None and not self._connection.is_closed:
                call.abandon(has_reply=call.inbox.receiver.ended is not None)


def _is_interruption(error: RpcError, has_begun: bool, is_resuming: bool) -> bool:
    """Whether a stream that ended with this error may go on with another call.

    A stream that never began fails like any other call. While one is resumed, errors that may pass
    count too, such as a missing queue.
    """
    is_interrupted = isinstance(error, Fault) and error.code == INTERRUPTED
    if is_interrupted or isinstance(error, BrokerFailed):
        return has_begun or is_resuming
    # `Refused` is not `retryable`, because the method may run. That does no harm: it is idempotent.
    return is_resuming and (error.retryable or isinstance(error, Refused))
