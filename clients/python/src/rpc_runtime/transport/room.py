"""Limits the messages of a channel that the broker has not confirmed."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Room for a number of messages and of their bytes. A message that is alone may be larger."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages = 0
        self._bytes = 0
        self._is_closed = False
        # The sizes of messages that wait. The future of each is done once the message is in, or
        # nobody waits for that any more.
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size: int) -> None:
        """Waits behind those that wait already, and takes room. Does not wait once it is closed."""
        if not self._waiting and self._fits(size):
            self._take(size)
            return
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, entered))
        try:
            await entered
        except asyncio.CancelledError:
            if entered.done() and not entered.cancelled():
                # It was let in at the same moment.
                self.leave(size)
            else:
                # Those behind it may fit, although it did not.
                entered.cancel()
                self._let_in()
            raise

    def leave(self, size: int) -> None:
        """Makes room for others."""
        self._messages -= 1
        self._bytes -= size
        self._let_in()

    def close(self) -> None:
        """Lets all messages in. Their channel is closed, so publishing them fails."""
        self._is_closed = True
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size, entered = self._waiting[0]
            if not entered.done():
                if not self._fits(size):
                    return
                self._take(size)
                entered.set_result(None)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        if self._is_closed or self._messages == 0:
            return True
        return self._messages < self._max_messages and self._bytes + size <= self._max_bytes

    def _take(self, size: int) -> None:
        self._messages += 1
        self._bytes += size
