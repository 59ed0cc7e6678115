"""The items that a caller sends while its method runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Any, Self

from ..codec import Codec, CodecError
from ..codec.method_bodies import decode_value
from ..deadline import now
from ..errors import IncomingError
from ..protocol.incoming_receiver import IncomingReceiver
from ..protocol.item_messages import Items, write_incoming_grant
from ..protocol.names import CREDIT, KEEP_ALIVE, MAX_SILENCE
from ..types import Converter
from .stream_sender import StreamSender

# A grant that only says that the method has taken items comes so many seconds after the last one.
_PROGRESS_PAUSE = 1.0
# The method of a caller that is silent for this long is cancelled. Its stream breaks off
# earlier, after `MAX_SILENCE`.
_GONE_AFTER = 2 * MAX_SILENCE


class IncomingInbox:
    """The items that a caller sends for one request, and what the caller is told about them."""

    def __init__(self, max_item_bytes: int) -> None:
        self.receiver = IncomingReceiver()
        self.max_item_bytes = max_item_bytes
        # Wakes `send_grants`.
        self._news = asyncio.Event()
        # Wakes `next`.
        self._arrived = asyncio.Event()
        # Since when the caller is silent. `None` while the worker's queue for items is lost.
        self._heard_at: float | None = now()

    def receive(self, items: Items, end: int | None) -> None:
        """Takes a message of the caller. `end` is the number of all items if it is the end."""
        if self._heard_at is not None:
            self._heard_at = now()
        self.receiver.receive(items, end)
        self._wake()

    def fail(self, reason: str) -> None:
        """Ends the stream with an error, after the items that are there, unless it is over."""
        self.receiver.fail(reason)
        self._wake()

    def ignore_silence(self) -> None:
        """Stops counting the caller's silence, because the worker's queue for items is lost."""
        self._heard_at = None

    def resume(self) -> None:
        """Counts the silence anew, and asks for items that were lost with the worker's queue."""
        self._heard_at = now()
        self.receiver.ask_again()
        self._wake()

    def _wake(self) -> None:
        self._arrived.set()
        self._news.set()

    async def next(self) -> bytes | None:
        """Waits for the next item. Returns `None` at the end, or once the inbox is closed.

        Raises `IncomingError` if the stream broke off.
        """
        receiver = self.receiver
        while True:
            item = receiver.take()
            if item is not None:
                if receiver.has_news or receiver.has_progress:
                    self._news.set()
                return item
            if receiver.is_over:
                if receiver.failure is not None:
                    raise IncomingError(receiver.failure)
                return None
            self._arrived.clear()
            await self._arrived.wait()

    def close(self) -> None:
        """Drops the items that are there, and has the caller told to send no more."""
        self.receiver.close()
        self._wake()

    async def send_grants(self, sender: StreamSender, on_gone: Callable[[], None]) -> None:
        """Sends grants until the task is cancelled: for news and progress, and as keep-alives.

        Breaks the stream off if the caller is silent. If it stays silent, calls `on_gone` and
        returns.
        """
        told_at = -math.inf  # no grant was sent yet
        while True:
            self._news.clear()
            silence = 0.0 if self._heard_at is None else now() - self._heard_at
            if silence >= _GONE_AFTER:
                on_gone()
                return
            # Not again once the stream is over: `fail` wakes this task.
            if silence >= MAX_SILENCE and not self.receiver.is_over:
                self.fail(f"the caller has sent nothing for {MAX_SILENCE:g} s")
            pause = _PROGRESS_PAUSE if self.receiver.has_progress else KEEP_ALIVE
            if self.receiver.has_news or told_at + pause <= now():
                told_at = now()
                await sender.tell(CREDIT, write_incoming_grant(self.receiver.grant()))
                continue
            wake_at = told_at + pause
            if self._heard_at is not None:
                limit = _GONE_AFTER if self.receiver.is_over else MAX_SILENCE
                wake_at = min(wake_at, self._heard_at + limit)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(wake_at):
                    await self._news.wait()


class IncomingItems:
    """The stream as the method reads it. An item that cannot be read closes it."""

    def __init__(self, inbox: IncomingInbox, converter: Converter, codec: Codec) -> None:
        self._inbox = inbox
        self._converter = converter
        self._codec = codec

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        body = await self._inbox.next()
        if body is None:
            raise StopAsyncIteration
        try:
            if len(body) > self._inbox.max_item_bytes:
                raise CodecError(f"it has {len(body)} bytes")
            return decode_value(self._converter, body, self._codec)
        except CodecError as error:
            self._inbox.close()
            raise IncomingError(f"an item cannot be read: {error}") from None

    async def aclose(self) -> None:
        """Takes no more items: the caller is told to send no more."""
        self._inbox.close()
