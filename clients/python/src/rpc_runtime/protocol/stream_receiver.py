"""Puts the items of a result stream into order, and decides how many more may be sent."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from .item_messages import Items
from .volume import Volume

E = TypeVar("E")


class BadStream(ValueError):
    """The messages of a worker cannot be a stream."""


class StreamReceiver(Generic[E]):
    """The items that have arrived and that the reader has not taken. `E` is the end's reply."""

    def __init__(self, window: Volume) -> None:
        # Items in order, without a gap before them.
        self._ready: deque[bytes] = deque()
        # Items after a gap, by their numbers.
        self._early: dict[int, bytes] = {}
        # The number of the next item that is missing.
        self._next = 0
        self._arrived_bytes = 0
        # The size of the largest message: a worker may exceed its credit by one message.
        self._largest = 0
        self._window = window
        self._granted = window
        self._consumed = Volume()
        # The number of all items, and the reply, once that has arrived.
        self._end: tuple[int, E] | None = None
        self._ended: E | None = None
        # The worker whose messages count: the sender of the first one.
        self.worker: str | None = None

    @property
    def granted(self) -> Volume:
        """The credit that the worker has in total."""
        return self._granted

    @property
    def ended(self) -> E | None:
        """The reply that ends the stream, once all items before it are there."""
        return self._ended

    def misses_before(self, number: int) -> bool:
        """Whether items before this number are missing."""
        return self._next < number

    def is_foreign(self, worker: str | None) -> bool:
        """Whether a message is from another worker than the first one."""
        return self.worker is not None and self.worker != worker

    def receive(self, worker: str, items: Items) -> None:
        """Adds a message that is not foreign. Raises `BadStream`."""
        self.worker = worker
        if not items.items:
            return
        if items.after_last > self._granted.items:
            raise BadStream("the worker sent more items than it was granted")
        if self._end is not None and items.after_last > self._end[0]:
            raise BadStream("the worker sent an item after the end")
        size = sum(Volume.of(item).size for item in items.items)
        self._largest = max(self._largest, size)
        # Items that have arrived before are skipped.
        for number, item in enumerate(items.items, items.first):
            if number == self._next:
                self._add(item)
                while self._early and (early := self._early.pop(self._next, None)) is not None:
                    self._ready.append(early)
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

    def end(self, worker: str | None, count: int | None, reply: E) -> None:
        """Records the end. Without a count, the stream ends at once. Raises `BadStream`."""
        if count is None:
            self._ended = reply
            return
        highest = max(self._early, default=self._next - 1) + 1
        if count < highest:
            raise BadStream("the worker sent more items than it counted")
        if count > self._granted.items:
            raise BadStream("the worker counted more items than it was granted")
        if self._end is None:
            self._end = (count, reply)
        self._check_end()
        if self._ended is None and self.worker is None:
            self.worker = worker

    def _check_end(self) -> None:
        if self._end is not None and self._end[0] == self._next:
            self._ended = self._end[1]

    def take(self) -> bytes | None:
        """Takes the next item for the reader. `None` if it has not arrived."""
        if not self._ready:
            return None
        item = self._ready.popleft()
        self._consumed = self._consumed.plus(Volume.of(item))
        return item

    def next_grant(self) -> Volume | None:
        """Returns the credit to grant, once half of it is used. `None` before that."""
        left = self._granted.minus(self._consumed)
        if left.allows_more_than(self._window.half()):
            return None
        self._granted = self._granted.largest(self._consumed.plus(self._window))
        return self._granted
