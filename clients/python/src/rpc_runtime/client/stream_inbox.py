"""The inbox of a call with items in either direction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..codec import CodecError
from ..deadline import now
from ..errors import BadReply, RpcError, received_fault
from ..executed import Executed
from ..protocol.fault_code import INTERRUPTED
from ..protocol.item_messages import read_incoming_grant, read_items
from ..protocol.item_sender import BadGrant, ItemSender
from ..protocol.message import header_number
from ..protocol.names import CREDIT, ITEMS, ITEMS_HEADER
from ..protocol.reply import ReplyKind, kind_of
from ..protocol.request_id import uuid_of
from ..protocol.stream_receiver import BadStream, StreamReceiver, Unread
from ..protocol.stream_run import StreamRun
from ..protocol.volume import Volume
from ..transport.delivery import Delivery
from .inbox import Inbox
from .worker_header import run_of, worker_of

if TYPE_CHECKING:
    from .caller import Caller


_NO_RUN = "a message of a stream does not say which run of which worker sent it"


class StreamInbox(Inbox):
    """Takes the items that a worker sends, and its grants for the items that the caller sends.

    `window` is how much the worker may send at first: nothing if the method returns no stream.
    """

    def __init__(
        self, caller: Caller, correlation_id: str, window: Volume, sender: ItemSender | None
    ) -> None:
        super().__init__()
        self._caller = caller
        self._identity = uuid_of(correlation_id) or b""
        # The items that the caller sends go to one run only.
        self.receiver: StreamReceiver[Delivery] = StreamReceiver(
            window, may_begin_anew=sender is None
        )
        self._replies_with_items = window.items > 0
        # `None` if the caller sends no items.
        self.sender = sender
        # Set when a grant has arrived.
        self.granted = asyncio.Event()
        self.failure: RpcError | None = None
        # Since when the worker has been silent.
        self.heard_at = now()
        # When the method last took an item of the caller, or the call began.
        self.went_on_at = now()
        # The first message of the type for items, even without any. Its content type is theirs.
        self.first_message: Delivery | None = None

    @property
    def worker(self) -> str | None:
        """The id of the worker, once it is known."""
        run = self.receiver.run
        return None if run is None else run.worker

    def fail(self, error: RpcError) -> None:
        """Ends the call with an error."""
        if self.failure is None:
            self.failure = error
            self.has_begun = True
            self.wake()

    def reconnected(self) -> None:
        """Counts the worker's silence from now on: without a connection, nothing can be heard."""
        self.heard_at = now()
        self.wake()

    def receive(self, delivery: Delivery) -> None:
        """Takes a message of a worker."""
        if self.failure is not None or self.receiver.ended is not None:
            # The call is over, although its reader may not have taken all items.
            self._end_unread_stream(delivery)
            return
        run, previous = run_of(delivery), self.receiver.run
        unread = self.receiver.choose_run(run)
        # Without a run, a message of this stream's own worker is foreign too. The stream goes on.
        if unread is Unread.FOREIGN and worker_of(delivery) != self.worker:
            self._end_unread_stream(delivery)
        elif unread is Unread.INTERRUPTED:
            reason = "its worker lost the connection, and began the stream again"
            self.fail(received_fault(INTERRUPTED, reason))
        if unread is not None:
            return
        if previous is not None and self.receiver.run != previous:
            # The stream begins anew.
            self.first_message = None
            self.heard_at = now()
        self._read(run, delivery)

    def _end_unread_stream(self, delivery: Delivery) -> None:
        """Ends the stream that a message belongs to, unless the message is the reply."""
        if delivery.message.type in (ITEMS, CREDIT):
            self._caller.end_unread_stream(delivery)

    def _read(self, run: StreamRun | None, delivery: Delivery) -> None:
        """Reads a message of the run that sends the stream."""
        kind = delivery.message.type
        try:
            if delivery.malformed is not None:
                raise BadStream(delivery.malformed)
            if kind == ITEMS:
                self._receive_items(run, delivery)
            elif kind == CREDIT:
                self._receive_credit(run, delivery)
            else:
                self._receive_end(run, delivery)
        except (BadStream, BadGrant, CodecError) as error:
            self.fail(BadReply(str(error), Executed.MAYBE))

    def _receive_items(self, run: StreamRun | None, delivery: Delivery) -> None:
        if run is None:
            raise BadStream(_NO_RUN)
        items = read_items(delivery.message.body)
        is_first = self.receiver.run is None
        self.receiver.receive(run, items)
        self.first_message = self.first_message or delivery
        # Items that are missing may be lost with the broker, and never come. Then the worker counts
        # as silent, although its later messages arrive. The first message always counts: the
        # request may have waited for a worker.
        if is_first or not self.receiver.misses_before(items.after_last):
            self.heard_at = now()
        if not items.items:
            # A keep-alive. The answer shows that the caller is there, and repeats lost credit.
            self._caller.control.grant(run.worker, self._identity, self.receiver.granted)
        self.has_begun = True
        self.wake()

    def _receive_credit(self, run: StreamRun | None, delivery: Delivery) -> None:
        if self.sender is None:
            raise BadStream("the worker grants credit for items that nobody sends")
        if run is None:
            raise BadStream(_NO_RUN)
        grant = read_incoming_grant(delivery.message.body)
        is_first = self.receiver.run is None
        self.receiver.run = run
        if self.sender.grant(grant):
            self.went_on_at = now()
        # If the worker also sends items, only its messages of items show that these go on.
        if is_first or not self._replies_with_items:
            self.heard_at = now()
        self.has_begun = True
        self.granted.set()
        self.wake()

    def _receive_end(self, run: StreamRun | None, delivery: Delivery) -> None:
        number = header_number(delivery.message.headers, ITEMS_HEADER, -1)
        count = None if number < 0 else number
        if kind_of(delivery.message.type) is ReplyKind.RESULT:
            if run is None and self.sender is not None:
                # A worker that knows streams from callers names itself.
                raise BadStream("the worker has run the method without the items")
            # Without a count, no items precede a result. Some may precede a failure, and those that
            # have not arrived are given up.
            count = count or 0
        self.heard_at = now()
        self.receiver.end(run, count, delivery)
        self.has_begun = True
        self.wake()
