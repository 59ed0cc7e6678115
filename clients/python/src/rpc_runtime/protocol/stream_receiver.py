"""Puts the items of a result stream into order, and decides how many more may be sent."""

from __future__ import annotations

import enum
from collections import deque
from typing import Generic, TypeVar

from .item_messages import Items
from .stream_run import Origin, StreamRun, origin_of
from .volume import Volume

E = TypeVar("E")


class BadStream(ValueError):
    """The messages of a worker cannot be a stream."""


class Unread(enum.Enum):
    """Why a message of a stream is not read."""

    # It is another worker's, whose stream nobody reads, or it does not name its run.
    FOREIGN = "foreign"
    # It is from an earlier run, which has ended.
    LATE = "late"
    # The stream cannot go on, because its worker runs the method again.
    INTERRUPTED = "interrupted"


class StreamReceiver(Generic[E]):
    """The items that have arrived and that the reader has not taken. `E` is the end's reply."""

    def __init__(self, window: Volume, *, may_begin_anew: bool = True) -> None:
        """Expects a stream.

        `window` is the credit beyond what the reader has taken. `may_begin_anew` is `False` if the
        caller sends items, because it cannot send them twice.
        """
        self._window = window
        self._may_begin_anew = may_begin_anew
        # The run whose messages are read. `None` until one of them has arrived.
        self.run: StreamRun | None = None
        self._clear()

    def _clear(self) -> None:
        # Items in order, without a gap before them.
        self._ready: deque[bytes] = deque()
        # Items after a gap, by their numbers.
        self._early: dict[int, bytes] = {}
        # The number of the next item that is missing.
        self._next = 0
        # Counts each item once, also after the reader has taken it.
        self._arrived_bytes = 0
        # The size of the largest message: a worker may exceed its credit by one message.
        self._largest = 0
        self._granted = self._window
        self._consumed = Volume()
        # The number of all items, and the reply that counts them, once that has arrived.
        self._announced_end: tuple[int, E] | None = None
        self._ended: E | None = None

    @property
    def granted(self) -> Volume:
        """The credit that the worker has in total."""
        return self._granted

    @property
    def ended(self) -> E | None:
        """The reply that ends the stream, once all items that it counts have arrived."""
        return self._ended

    def misses_before(self, number: int) -> bool:
        """Whether items before this number are missing."""
        return self._next < number

    def choose_run(self, run: StreamRun | None) -> Unread | None:
        """Returns why a message of this run is not read, or `None` if it is.

        The first message decides which run sends the stream. If its worker runs the method again,
        that run has ended. The stream then begins anew with the later run, unless its reader has
        taken items of the earlier one, or its caller sends items.
        """
        if self.run is None:
            return None
        origin = origin_of(run, self.run)
        if origin is Origin.SAME_RUN:
            return None
        if origin is Origin.OTHER_WORKER:
            return Unread.FOREIGN
        if origin is Origin.EARLIER_RUN:
            return Unread.LATE
        if self._consumed.items > 0 or not self._may_begin_anew:
            return Unread.INTERRUPTED
        # The reader has taken no item, so the credit is still that of the request.
        self._clear()
        self.run = run
        return None

    def receive(self, run: StreamRun, items: Items) -> None:
        """Adds a message of a run that `choose_run` has accepted. Raises `BadStream`."""
        self.run = run
        if not items.items:
            return
        if items.after_last > self._granted.items:
            raise BadStream("the worker sent more items than it was granted")
        if self._announced_end is not None and items.after_last > self._announced_end[0]:
            raise BadStream("the worker sent an item after the end")
        size = sum(Volume.of(item).size for item in items.items)
        self._largest = max(self._largest, size)
        # Items that have arrived before are skipped.
        for number, item in enumerate(items.items, items.first):
            if number == self._next:
                self._add(item)
                while self._next in self._early:
                    self._ready.append(self._early.pop(self._next))
                    self._next += 1
            elif number > self._next and number not in self._early:
                self._early[number] = item
                self._arrived_bytes += Volume.of(item).size
        if self._arrived_bytes > self._granted.size + self._largest:
            raise BadStream("the worker sent more bytes than it was granted")
        self._check_end()

    def _add(self, item: bytes) -> None:
        self._ready.append(item)
        self._next += 1
        self._arrived_bytes += Volume.of(item).size

    def end(self, run: StreamRun | None, count: int | None, reply: E) -> None:
        """Records the end, of a run that `choose_run` has accepted. Raises `BadStream`.

        `count` is the number of all items. Without it, the stream ends at once, and items that are
        missing are given up.
        """
        if count is None:
            self._ended = reply
            return
        after_last = max(self._early, default=self._next - 1) + 1
        if count < after_last:
            raise BadStream("the worker sent more items than it counted")
        if count > self._granted.items:
            raise BadStream("the worker counted more items than it was granted")
        if self._announced_end is None:
            self._announced_end = (count, reply)
        self._check_end()
        # The end came first. The items are on their way from the same run.
        if self._ended is None and self.run is None:
            self.run = run

    def _check_end(self) -> None:
        if self._announced_end is not None and self._announced_end[0] == self._next:
            self._ended = self._announced_end[1]

    def take(self) -> bytes | None:
        """Takes the next item for the reader. `None` if it has not arrived."""
        if not self._ready:
            return None
        item = self._ready.popleft()
        self._consumed = self._consumed.plus(Volume.of(item))
        return item

    def next_grant(self) -> Volume | None:
        """Grants further credit once the reader has used half of the window.

        Returns the new total, or `None` before that.
        """
        left = self._granted.minus(self._consumed)
        if left.allows_more_than(self._window.half()):
            return None
        self._granted = self._granted.largest(self._consumed.plus(self._window))
        return self._granted
