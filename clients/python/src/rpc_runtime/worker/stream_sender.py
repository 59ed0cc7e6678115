"""Sends what the caller of a request with streams gets before the reply: items and grants."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from ..codec import Codec, CodecError, answering_content_type, encode, form_of
from ..codec.method_bodies import encode_value
from ..deadline import now
from ..describe import Method
from ..errors import Fault
from ..protocol import fault_code
from ..protocol.item_messages import Items, write_items
from ..protocol.message import Message
from ..protocol.names import ITEMS, ITEMS_HEADER, KEEP_ALIVE, WORKER_HEADER
from ..protocol.reply import Reply, ReplyKind, fault_reply
from ..protocol.reply_address import DIRECT_REPLY_TO
from ..protocol.volume import MAX_ITEMS, Volume
from ..tasks import TaskSet, cancel_and_wait
from ..transport.channel import Published
from .reply_sender import ReplySender

# How many messages without items may stay without a grant before the caller counts as gone.
_MAX_UNANSWERED = 12
# Fewer with direct reply-to: a caller that has lost its connection never gets further items.
_MAX_UNANSWERED_DIRECT = 8
# How many bytes the items of a message may have, unless it has only one.
_MAX_MESSAGE_BYTES = 513 * 1024
_MAX_UNCONFIRMED = 16
# After so many seconds, a message that is not confirmed ends the stream.
_SEND_LIMIT = 30.0
# The bytes of a message around its only item.
_ITEM_FRAME = 40
# The method makes no more items while so many bytes of them wait to be sent.
_MAX_BUFFERED = 1024 * 1024
# How many items are taken at most before other tasks may run.
_MAX_BURST = 64


class StreamSender:
    """The messages of one request with a stream in either direction.

    `begun` is set once the broker has confirmed one of them, and `closed` by `close`.
    """

    def __init__(
        self,
        sender: ReplySender,
        *,
        address: str,
        request: Message,
        codec: Codec,
        run_header: str,
        credit: Volume | None,
        max_bytes: int,
    ) -> None:
        self._sender = sender
        self._address = address
        self._correlation_id = request.correlation_id
        self._content_type = answering_content_type(request.content_type, codec)
        self._codec = codec
        self._run_header = run_header
        self._has_credit = credit is not None
        self._credit = credit or Volume()
        self._max_item = max_bytes - _ITEM_FRAME
        # Wakes the task that sends, and the one that takes items from the method.
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._publishing = TaskSet("stream")
        self._slots = asyncio.Semaphore(_MAX_UNCONFIRMED)
        # Items that the method has made and that are not sent, and how many bytes they have.
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._produced = Volume()
        # The number of the next item to send.
        self._sent = 0
        # How many keep-alives were sent since the last grant.
        self._unanswered = 0
        is_direct = address.startswith(DIRECT_REPLY_TO)
        self._max_unanswered = _MAX_UNANSWERED_DIRECT if is_direct else _MAX_UNANSWERED
        self._keep_alive_at = now() + KEEP_ALIVE
        # Whether messages were given up before the broker had confirmed them.
        self._has_given_up = False
        self.begun = asyncio.Event()
        self.closed = asyncio.Event()
        self.failure: Fault | None = None
        # Called by `tell` if the caller's reply queue does not exist.
        self.on_gone: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        """Where the messages go."""
        return self._address

    def grant(self, credit: Volume) -> None:
        """Takes a grant: how much may be sent in total. Even an old one answers the keep-alives."""
        self._unanswered = 0
        self._credit = self._credit.largest(credit)
        self._has_room.set()

    def request_grant(self) -> None:
        """Makes a keep-alive due, which asks the caller for its latest grant: grants may be lost.

        The keep-alive is sent only while `send_items` has no item to send.
        """
        self._keep_alive_at = now()
        self._changed.set()

    async def send_items(self, method: Method[Any], items: AsyncIterator[Any]) -> Reply:
        """Sends all items, and closes their iterator. Returns the reply, for `end`."""
        producing = asyncio.get_running_loop().create_task(self._produce(method, items))
        producing.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                self._changed.clear()
                if self.failure is not None:
                    raise self.failure
                if self._buffer:
                    await self._send_buffered()
                elif producing.done():
                    producing.result()
                    return Reply(ReplyKind.RESULT, self._codec)
                else:
                    await self._wait()
                    # After the last item, a keep-alive could only replace the finished reply by a
                    # fault.
                    if now() >= self._keep_alive_at and not producing.done():
                        await self._keep_alive()
        finally:
            await cancel_and_wait(producing)
            with contextlib.suppress(Exception):
                close = getattr(items, "aclose", None)
                if close is not None:
                    await close()

    async def _produce(self, method: Method[Any], items: AsyncIterator[Any]) -> None:
        """Takes items from the method, and buffers them while credit and space allow it."""
        converter = method.types_in(form_of(self._codec)).returns
        burst = 0
        async for item in items:
            try:
                body = encode_value(converter, item, self._codec)
            except CodecError as error:
                raise Fault(fault_code.UNANSWERABLE, str(error)) from None
            if len(body) > self._max_item:
                reason = f"an item has {len(body)} bytes, and at most {self._max_item} may be sent"
                raise Fault(fault_code.REPLY_TOO_LARGE, reason)
            # The wait is here, so the method has made one item more than credit allows.
            while not self._may_add():
                self._has_room.clear()
                await self._has_room.wait()
            self._produced = self._produced.plus(Volume.of(body))
            self._buffer.append(body)
            self._buffered += len(body)
            self._changed.set()
            burst += 1
            if burst >= _MAX_BURST:
                burst = 0
                await asyncio.sleep(0)

    def _may_add(self) -> bool:
        return self._credit.allows_more_than(self._produced) and self._buffered < _MAX_BUFFERED

    async def _send_buffered(self) -> None:
        """Sends a message with as many of the items as fit into it."""
        items: list[bytes] = []
        size = 0
        while self._buffer and len(items) < MAX_ITEMS:
            size += len(self._buffer[0])
            if items and size > _MAX_MESSAGE_BYTES:
                break
            items.append(self._buffer.popleft())
            self._buffered -= len(items[-1])
        self._has_room.set()
        await self._send_message(items)

    async def _wait(self) -> None:
        """Waits for an item, the end, a failure, or the time of the next keep-alive."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._keep_alive_at):
                await self._changed.wait()

    async def _keep_alive(self) -> None:
        """Sends a message without items. Raises `Fault` if too many had no grant as an answer."""
        if self._unanswered >= self._max_unanswered:
            silence = KEEP_ALIVE * self._max_unanswered
            reason = f"the caller has granted nothing for {silence:g} s"
            raise Fault(fault_code.ABANDONED, reason)
        self._unanswered += 1
        await self._send_message([])

    async def _send_message(self, items: list[bytes]) -> None:
        """Sends a message in a task of its own, once fewer than the maximum are unconfirmed."""
        await self._slots.acquire()
        # Only now: if the task is cancelled while it waits, these items are not sent.
        first, self._sent = self._sent, self._sent + len(items)
        self._keep_alive_at = now() + KEEP_ALIVE
        body = write_items(Items(first, items, self._credit))
        self._publishing.spawn(self._publish(self.message(ITEMS, body)))

    async def tell(self, kind: str, body: bytes) -> None:
        """Sends a message about the items that the caller sends. It may be lost.

        Calls `on_gone` if the caller's reply queue does not exist.
        """
        published = await self._sender.publish(
            self.message(kind, body), self._address, now() + KEEP_ALIVE, is_mandatory=True
        )
        if published is Published.CONFIRMED:
            self.begun.set()
        elif published is Published.RETURNED and self.on_gone is not None:
            self.on_gone()

    async def _publish(self, message: Message) -> None:
        """Publishes a message of items. If it is not confirmed, the stream has failed."""
        try:
            published = await self._sender.publish(
                message, self._address, now() + _SEND_LIMIT, is_mandatory=True
            )
        finally:
            self._slots.release()
        if published is Published.CONFIRMED:
            self.begun.set()
            return
        reasons = {
            Published.RETURNED: "the caller is gone",
            Published.REFUSED: "the broker refused a message of the stream",
            Published.CLOSED: "the broker does not accept a message of the stream",
            None: "a message of the stream could not be sent",
        }
        self.failure = Fault(fault_code.ABANDONED, reasons[published])
        self._changed.set()

    def message(self, kind: str, body: bytes) -> Message:
        """Makes a message of the stream."""
        return Message(
            body,
            type=kind,
            content_type=self._content_type,
            correlation_id=self._correlation_id,
            headers={WORKER_HEADER: self._run_header},
        )

    async def end(self, reply: Reply) -> Reply:
        """Waits until all items are confirmed or given up. Returns the reply with its headers.

        If the stream has failed, returns a fault instead. If items may be missing, their number is
        missing too, so that the caller does not wait for them.
        """
        await self._publishing.ended(_SEND_LIMIT)
        if self.failure is not None:
            reply = fault_reply(self._codec, self.failure.code, self.failure.message)
        elif self._has_credit and not self._has_given_up:
            reply.headers[ITEMS_HEADER] = str(self._sent)
        reply.headers[WORKER_HEADER] = self._run_header
        return reply

    async def close(self) -> None:
        """Gives up messages that are not confirmed."""
        self.closed.set()
        self._has_given_up = len(self._publishing) > 0
        await self._publishing.cancel()


async def collect(
    method: Method[Any], codec: Codec, items: AsyncIterator[Any], max_bytes: int
) -> Reply:
    """Collects all items into one reply, for a caller that grants no credit.

    Raises `Fault` if they cannot be encoded, or are too large together.
    """
    converter = method.types_in(form_of(codec)).returns
    collected: list[Any] = []
    size = 0
    async for item in items:
        try:
            # Except in plain text, this is only to know the size of the item.
            body = encode_value(converter, item, codec)
            collected.append(body if codec is Codec.TEXT else converter.encode(item))
        except ValueError as error:
            raise Fault(fault_code.UNANSWERABLE, str(error)) from None
        size += len(body)
        if size > max_bytes:
            reason = (
                f"the method ran, and its items are larger than the {max_bytes} bytes "
                "that may be sent in one reply"
            )
            raise Fault(fault_code.REPLY_TOO_LARGE, reason)
    if codec is Codec.TEXT:
        return Reply(ReplyKind.RESULT, codec, b"".join(line + b"\n" for line in collected))
    return Reply(ReplyKind.RESULT, codec, _array(codec, collected))


def _array(codec: Codec, items: list[Any]) -> bytes:
    try:
        return encode(codec, items)
    except CodecError as error:
        raise Fault(fault_code.UNANSWERABLE, str(error)) from None
