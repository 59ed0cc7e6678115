"""Pauses between attempts."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double up to the greatest one, in seconds.

    Shorter ones are lengthened at random, so that peers do not come back together.
    """

    def __init__(self, least: float = 0.1, greatest: float = 5.0) -> None:
        self._least = least
        self._greatest = greatest
        self._next = least

    def reset(self) -> None:
        """Begins with the shortest pause again."""
        self._next = self._least

    def next_pause(self) -> float:
        """Returns the next pause, and doubles the one after it."""
        pause = self._next
        self._next = min(self._greatest, 2 * pause)
        return min(self._greatest, pause * random.uniform(1.0, 2.0))
