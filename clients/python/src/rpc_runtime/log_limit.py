"""Limits the log lines that peers can cause."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger("rpc_runtime")

_PAUSE = 10.0


class LimitedLog:
    """Writes at most one line of each kind in ten seconds, and says how many it has left out."""

    def __init__(self) -> None:
        # When the next line of a kind may be written, and how many were left out before.
        self._kinds: dict[str, tuple[float, int]] = {}

    def report(self, kind: str, text: str) -> None:
        """Writes a warning. `kind` must not come from a peer: the kinds are kept for ever."""
        now = time.monotonic()
        next_at, omitted = self._kinds.get(kind, (0.0, 0))
        if now < next_at:
            self._kinds[kind] = (next_at, omitted + 1)
            return
        self._kinds[kind] = (now + _PAUSE, 0)
        suffix = f" ({omitted} more since the last line)" if omitted else ""
        _log.warning("%s%s", text, suffix)


def printable(text: str | None, limit: int = 64) -> str:
    """Makes text of a peer safe to log: cuts it at `limit` characters, quotes and escapes it."""
    return ascii((text or "")[:limit])
