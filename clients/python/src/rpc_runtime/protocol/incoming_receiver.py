"""The items that a caller sends and that its method has not taken, and what to tell the caller."""

from __future__ import annotations

from collections import deque

from .item_messages import IncomingGrant, Items
from .item_sender import MAX_UNTAKEN_BYTES

# How many items a caller may send beyond those that the method has taken.
WINDOW = 1024


class IncomingReceiver:
    """Puts the items into order, and says what the worker wants next."""

    def __init__(self) -> None:
        self._ready: deque[bytes] = deque()
        self._ready_bytes = 0
        self._taken = 0
        # What the last grant said about `_taken`.
        self._told_taken = 0
        # How many items the caller may send in total.
        self._granted = 0
        # How many bytes were taken since the last grant.
        self._taken_bytes = 0
        # What the next grant asks for.
        self._asks = IncomingGrant.NOTHING
        # The first item that was missing when the caller was last asked to send again.
        self._asked_from: int | None = None
        # Whether the end, or an error in its place, has arrived.
        self._has_ended = False
        self._failure: str | None = None
        # Whether the method wants no more.
        self._is_closed = False

    @property
    def next(self) -> int:
        """The number of the item that is expected next, from 0."""
        return self._taken + len(self._ready)

    @property
    def is_over(self) -> bool:
        """Whether no further items are wanted."""
        return self._is_closed or self._has_ended

    @property
    def has_progress(self) -> bool:
        """Whether the method has taken items since the last grant."""
        return self._taken > self._told_taken

    @property
    def has_news(self) -> bool:
        """Whether the caller must be told something at once."""
        left = self._granted - self._taken
        is_half_used = left <= WINDOW // 2 or self._taken_bytes >= MAX_UNTAKEN_BYTES // 2
        return self._asks != IncomingGrant.NOTHING or (is_half_used and not self.is_over)

    def receive(self, items: Items, end: int | None) -> None:
        """Adds a message of items. `end` is the number of all items if the message is the end.

        What breaks the protocol ends the stream with an error, as in `fail`.
        """
        if self.is_over:
            # Items may have been on their way before the caller heard that no more is wanted. A
            # message without items shows that it has not heard that.
            if not items.items:
                self._asks = IncomingGrant.ENOUGH
            return
        if items.after_last > self._granted:
            self.fail("there are more items than were granted")
            return
        if end is not None and end != items.after_last:
            self.fail("the end counts another number of items")
            return
        if items.first > self.next:
            # Each message after a gap shows the gap. To ask once is enough, until the caller has
            # nothing else to send and sends a message without items: it may not have heard.
            if not items.items or self._asked_from != self.next:
                self.ask_again()
            return
        for item in items.items[self.next - items.first :]:
            if self._ready_bytes >= MAX_UNTAKEN_BYTES:
                self.fail("there are more bytes than the method has room for")
                return
            self._ready.append(item)
            self._ready_bytes += len(item)
        if end is None:
            return
        if end == self.next:
            self._finish()
        else:
            self.fail("there are items after the end")

    def fail(self, reason: str) -> None:
        """Ends the stream with an error after the items that are there, unless it is over."""
        if not self.is_over:
            self._failure = reason
            self._finish()

    def _finish(self) -> None:
        self._has_ended = True
        self._asks = IncomingGrant.ENOUGH

    def ask_again(self) -> None:
        """Asks the caller to send all items again that the method has not taken."""
        if not self.is_over:
            self._asks = IncomingGrant.AGAIN
            self._asked_from = self.next

    def close(self) -> None:
        """Takes no more items, and discards those that are there."""
        self._is_closed = True
        self._ready.clear()
        self._ready_bytes = 0
        self._asks = IncomingGrant.ENOUGH

    def take(self) -> bytes | None:
        """Takes the next item. `None` if it has not arrived, or the stream is over."""
        if not self._ready:
            return None
        item = self._ready.popleft()
        self._taken += 1
        self._ready_bytes -= len(item)
        self._taken_bytes += len(item)
        return item

    @property
    def is_at_end(self) -> bool:
        """Whether there is nothing more to take, and nothing will follow. For tests."""
        return self.is_over and not self._ready

    @property
    def failure(self) -> str | None:
        """Why the stream broke off, if it did."""
        return self._failure

    def grant(self) -> IncomingGrant:
        """Returns what to tell the caller, and counts that as told."""
        asks, self._asks = self._asks, IncomingGrant.NOTHING
        if self.is_over:
            # Each grant says so until the reply, because an earlier one may be lost.
            asks = IncomingGrant.ENOUGH
        else:
            self._granted = max(self._granted, self._taken + WINDOW)
        self._told_taken = self._taken
        self._taken_bytes = 0
        return IncomingGrant(self._granted, self._taken, asks)
