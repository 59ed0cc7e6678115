"""Whether the broker blocks a connection."""

from __future__ import annotations

import asyncio


class Blocking:
    """The state that the broker announces: it blocks publishers during an alarm."""

    def __init__(self) -> None:
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    @property
    def is_blocked(self) -> bool:
        """Whether nothing can be published."""
        return not self.unblocked.is_set()

    def set(self, is_blocked: bool) -> None:
        """Records what the broker has announced."""
        if is_blocked:
            self.unblocked.clear()
        else:
            self.unblocked.set()
