"""Takes the items of a caller's stream, and sends them to the worker that runs the method."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..codec import CodecError, form_of
from ..codec.method_bodies import encode_value
from ..deadline import now
from ..errors import BadItem, RpcError, received_fault
from ..protocol.backoff import Backoff
from ..protocol.fault_code import INTERRUPTED
from ..protocol.item_messages import write_items
from ..protocol.item_sender import ItemMessage, ItemSender
from ..protocol.message import Message
from ..protocol.names import (
    CONTROL_EXCHANGE,
    ITEMS,
    ITEMS_HEADER,
    ITEMS_SUFFIX,
    KEEP_ALIVE,
    MAX_SILENCE,
)
from ..tasks import cancel_and_wait
from ..transport.channel import Published
from ..transport.errors import ChannelLost, ConnectFailed
from ..transport.lazy_channel import LazyChannel
from .request import Request
from .stream_inbox import StreamInbox

if TYPE_CHECKING:
    from ..connection import Connection

_MAX_UNCONFIRMED = 16
# How many items are taken at most before other tasks may run.
_MAX_BURST = 64
# How many bytes of a message are around its only item, at most.
_ITEM_FRAME = 40
# What `_next_of` returns at the end of the caller's stream.
_END = object()


class Upload:
    """The items that one call sends. Owns the caller's stream and the channel for the items."""

    def __init__(
        self,
        connection: Connection,
        request: Request,
        items: AsyncIterable[Any] | Iterable[Any],
        inbox: StreamInbox,
    ) -> None:
        self._request = request
        self._items = items
        self._inbox = inbox
        self._sender = inbox.sender or ItemSender()
        self._max_item = connection.max_sent_bytes - _ITEM_FRAME
        self._channel = LazyChannel(connection.supervisor)
        # The tasks that publish messages, each with the number of its message's first item.
        self._publishing: dict[asyncio.Task[Published], int] = {}
        # Wakes the task that sends. The inbox sets it too, when the worker grants credit.
        self._changed = inbox.granted
        # Wakes the task that takes items from the caller's stream.
        self._has_room = asyncio.Event()
        self._keep_alive_at = 0.0
        # Nothing is sent before this: a message did not reach the worker.
        self._retry_at = 0.0
        self._backoff = Backoff(0.025, 2.0)
        # Since when the broker has returned or refused each message. `None` if the last one was
        # confirmed, or its channel was lost.
        self._undelivered_since: float | None = None
        # Since when the call waits for its worker. `None` while it waits for the caller's stream.
        self.waits_since: float | None = now()

    async def run(self) -> None:
        """Sends the items until this task is cancelled. An `RpcError` ends the call."""
        pulling = asyncio.get_running_loop().create_task(self._pull_all(), name="rpc items")
        pulling.add_done_callback(lambda _: self._changed.set())
        try:
            await self._send_all(pulling)
        except RpcError as error:
            self._inbox.fail(error)
        finally:
            await cancel_and_wait(pulling)
            await self.close()

    async def _send_all(self, pulling: asyncio.Task[None]) -> None:
        """Sends the items that the task `pulling` takes, and keep-alives. Never returns."""
        self._keep_alive_at = now() + KEEP_ALIVE
        while True:
            self._changed.clear()
            self._handle_outcomes()
            if pulling.done() and not pulling.cancelled():
                # Raises the error with which the caller's stream failed.
                pulling.result()
            if self._sender.is_done:
                # The method wants no more items, so the caller's stream is closed.
                pulling.cancel()
            may_send = self._retry_at <= now()
            if may_send:
                self._send_ready()
            self._has_room.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._keep_alive_at if may_send else self._retry_at):
                    await self._changed.wait()

    async def _pull_all(self) -> None:
        """Takes the items of the caller's stream while credit allows it, and closes the stream.

        Raises `BadItem` if the stream fails, or an item cannot be sent.
        """
        iterator = _iterate(self._items)
        burst = 0
        try:
            while True:
                while not self._sender.may_pull():
                    self._has_room.clear()
                    if self.waits_since is None:
                        self.waits_since = now()
                    await self._has_room.wait()
                self.waits_since = None
                item = await _next_of(iterator)
                if item is _END:
                    break
                self._add(item)
                self._changed.set()
                burst += 1
                if burst >= _MAX_BURST:
                    burst = 0
                    await asyncio.sleep(0)
            self._sender.end()
        finally:
            self.waits_since = now()
            await _close(iterator)

    def _send_ready(self) -> None:
        """Starts to publish what can be sent, and a keep-alive if it is time for one."""
        while len(self._publishing) < _MAX_UNCONFIRMED:
            message = self._sender.next_message()
            if message is None:
                break
            self._start_publishing(message)
        if self._keep_alive_at <= now():
            self._keep_alive_at = now() + KEEP_ALIVE
            # A message that is on its way shows the same: that the caller is there.
            if not self._publishing:
                self._start_publishing(self._sender.keep_alive())

    def _start_publishing(self, message: ItemMessage) -> None:
        """Starts to publish a message. `_handle_outcomes` learns what became of it."""
        self._keep_alive_at = now() + KEEP_ALIVE
        task = asyncio.get_running_loop().create_task(self._publish(message))
        self._publishing[task] = message.items.first
        task.add_done_callback(lambda _: self._changed.set())

    async def _publish(self, message: ItemMessage) -> Published:
        headers = {} if message.end is None else {ITEMS_HEADER: str(message.end)}
        return await self._channel.publish(
            Message(
                write_items(message.items),
                type=ITEMS,
                content_type=self._request.codec.value,
                correlation_id=self._request.correlation_id,
                headers=dict(headers),
            ),
            queue=f"{self._inbox.worker}{ITEMS_SUFFIX}",
            exchange=CONTROL_EXCHANGE,
            is_mandatory=True,
        )

    def _handle_outcomes(self) -> None:
        for task in [task for task in self._publishing if task.done()]:
            # Missing if `_send_again` has dropped it together with a message that was lost.
            first = self._publishing.pop(task, None)
            if first is not None:
                self._handle_outcome(first, task)

    def _handle_outcome(self, first: int, task: asyncio.Task[Published]) -> None:
        """Has a message sent again if it did not reach the worker. `first` is its first item.

        Raises a fault if the worker is gone.
        """
        try:
            published = task.result()
        except (ChannelLost, ConnectFailed):
            # Says nothing about the worker. The time limit of the call ends this.
            self._undelivered_since = None
        else:
            if published is Published.CONFIRMED:
                self._undelivered_since = None
                self._backoff.reset()
                return
            if self._undelivered_since is None:
                self._undelivered_since = now()
            if now() - self._undelivered_since >= MAX_SILENCE and not self._sender.is_done:
                reason = "the worker that received the items is gone"
                raise received_fault(INTERRUPTED, reason)
        self._send_again(first)

    def _send_again(self, first: int) -> None:
        """Has the message that begins with this item sent again after a pause.

        The same goes for all whose outcome is not handled yet: the worker discards what follows a
        gap.
        """
        for task in self._publishing:
            task.cancel()
        first = min([first, *self._publishing.values()])
        self._publishing.clear()
        self._sender.go_back(first)
        self._retry_at = now() + self._backoff.next_pause()
        # The lost message may have been a keep-alive, so one follows at once.
        self._keep_alive_at = self._retry_at

    def _add(self, item: Any) -> None:
        """Encodes an item of the caller's stream, and keeps it for sending. Raises `BadItem`."""
        types = self._request.method.types_in(form_of(self._request.codec))
        if types.incoming is None:
            raise BadItem("the method receives no stream")
        try:
            body = encode_value(types.incoming, item, self._request.codec)
        except CodecError as error:
            raise BadItem(str(error)) from None
        except Exception as error:
            # Raised by code of the caller, such as a property of the item.
            raise BadItem(f"it raises {type(error).__name__}") from error
        if len(body) > self._max_item:
            reason = f"it has {len(body)} bytes, and at most {self._max_item} may be sent"
            raise BadItem(reason)
        self._sender.push(body)

    async def close(self) -> None:
        """Gives up messages that are not confirmed, and closes the channel."""
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        self._publishing.clear()
        await self._channel.close()


def _iterate(items: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any] | Iterator[Any]:
    """Begins the caller's stream. Raises `BadItem` if it fails, or if this is no stream."""
    try:
        return aiter(items) if isinstance(items, AsyncIterable) else iter(items)
    except Exception as error:
        raise _stream_failed(error) from error


async def _next_of(iterator: AsyncIterator[Any] | Iterator[Any]) -> Any:
    """Returns the next item of the caller's stream, or `_END`. Raises `BadItem` if it fails."""
    try:
        if isinstance(iterator, AsyncIterator):
            return await anext(iterator, _END)
        return next(iterator, _END)
    except Exception as error:
        raise _stream_failed(error) from error


def _stream_failed(error: Exception) -> BadItem:
    """Makes the error of a call whose stream has failed.

    Even an `RpcError` is replaced: it is about the method of another call that the stream makes.
    """
    return BadItem(f"the stream of items failed: {type(error).__name__}")


async def _close(iterator: AsyncIterator[Any] | Iterator[Any]) -> None:
    with contextlib.suppress(Exception):
        if isinstance(iterator, AsyncIterator):
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
        elif (close := getattr(iterator, "close", None)) is not None:
            close()
