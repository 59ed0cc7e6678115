"""Decides which items a call sends to its method."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .item_messages import IncomingGrant, Items
from .volume import MAX_CREDIT, MAX_ITEMS, UNLIMITED, Volume

# How many bytes of items a message may have, unless it has a single item.
MAX_MESSAGE_BYTES = 64 * 1024
# From this many bytes of items on that the method has not taken, the caller adds no more.
MAX_UNTAKEN_BYTES = 4 * 1024 * 1024


class BadGrant(ValueError):
    """A worker says that the method took items which the caller's stream has not yielded."""


@dataclass(frozen=True, slots=True)
class ItemMessage:
    """A message to the worker. `end` is the number of all items if the message is the end."""

    items: Items
    end: int | None


class ItemSender:
    """Keeps the items that the method has not taken, because they may have to be sent again."""

    def __init__(self) -> None:
        # The items from the number `_taken` on.
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        # How many items the caller's stream has yielded.
        self._count = 0
        # How many of them the method has taken.
        self._taken = 0
        # The number of the next item to send.
        self._next = 0
        # How many items may be sent in total.
        self._credit = 0
        self._has_ended = False
        self._is_end_sent = False
        # Whether the worker wants no more items.
        self.is_done = False

    @property
    def has_ended(self) -> bool:
        """Whether no further items are needed from the caller."""
        return self._has_ended or self.is_done

    def may_pull(self) -> bool:
        """Whether the caller's stream may be asked for an item."""
        return (
            not self.has_ended
            and self._count < self._credit
            and self._kept_bytes < MAX_UNTAKEN_BYTES
        )

    def push(self, item: bytes) -> None:
        """Adds an item of the caller's stream."""
        self._kept.append(item)
        self._kept_bytes += len(item)
        self._count += 1

    def end(self) -> None:
        """Records that the caller's stream has ended."""
        self._has_ended = True

    def grant(self, grant: IncomingGrant) -> bool:
        """Takes a grant of the worker. Returns whether the method has taken further items.

        Raises `BadGrant`. The numbers of an old grant that arrives late change nothing, but what it
        asks for is done.
        """
        if grant.taken > self._count:
            raise BadGrant("the method took items that were not sent")
        has_taken_more = grant.taken > self._taken
        while not self.is_done and self._taken < grant.taken:
            self._kept_bytes -= len(self._kept.popleft())
            self._taken += 1
        self._taken = max(self._taken, grant.taken)
        self._next = max(self._next, self._taken)
        self._credit = max(self._credit, min(grant.credit, self._taken + MAX_CREDIT))
        if grant.asks == IncomingGrant.AGAIN:
            # To the first item that is kept.
            self.go_back(0)
        elif grant.asks == IncomingGrant.ENOUGH:
            self.is_done = True
            self._kept.clear()
            self._kept_bytes = 0
        return has_taken_more

    def go_back(self, first: int) -> None:
        """Lets `next_message` repeat the kept items from this number on, and the end."""
        self._next = max(self._taken, min(self._next, first))
        self._is_end_sent = False

    def next_message(self) -> ItemMessage | None:
        """Returns the next message, and counts it as sent. `None` if there is nothing to send."""
        if self.is_done:
            return None
        items: list[bytes] = []
        first, size = self._next, 0
        for index in range(first - self._taken, len(self._kept)):
            item = self._kept[index]
            size += len(item)
            # A single item may be larger.
            if items and (len(items) >= MAX_ITEMS or size > MAX_MESSAGE_BYTES):
                break
            items.append(item)
        if items:
            self._next += len(items)
            return self._message(first, items)
        if self._has_ended and not self._is_end_sent:
            self._is_end_sent = True
            return self._message(first, items)
        return None

    def keep_alive(self) -> ItemMessage:
        """Returns a message that shows that the caller is there, and how much it has sent.

        It repeats the end if that was sent.
        """
        return self._message(self._next, [])

    def _message(self, first: int, items: list[bytes]) -> ItemMessage:
        end = self._count if self._is_end_sent and not items else None
        return ItemMessage(Items(first, items, Volume(self._credit, UNLIMITED)), end)
