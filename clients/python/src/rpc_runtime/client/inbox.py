"""Where the messages for one call arrive."""

from __future__ import annotations

import asyncio
import contextlib

from ..transport.delivery import Delivery


class Inbox:
    """The messages for one call. Only the task that makes the call may wait for changes."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        # Whether a message of a worker has arrived, or the call has failed. Either way, its request
        # is not sent again.
        self.has_begun = False

    def receive(self, delivery: Delivery) -> None:
        """Takes a message. Must not raise an exception."""
        raise NotImplementedError

    def reconnected(self) -> None:
        """Learns that messages can arrive again."""
        self.wake()

    def wake(self) -> None:
        """Wakes the task that waits."""
        self._changed.set()

    async def changed(self, deadline: float) -> None:
        """Waits for a change since the last wait, or until the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        self._changed.clear()


class ReplyInbox(Inbox):
    """Takes the reply to a call."""

    def __init__(self) -> None:
        super().__init__()
        self.reply: Delivery | None = None

    def receive(self, delivery: Delivery) -> None:
        """Takes the first reply. Ignores later ones."""
        if self.reply is None:
            self.reply = delivery
            self.has_begun = True
            self.wake()
