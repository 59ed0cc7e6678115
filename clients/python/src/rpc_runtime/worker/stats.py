"""Counts of a method's calls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..protocol.reply import Reply, ReplyKind


@dataclass(slots=True)
class MethodStats:
    """What a worker counts for one method on one queue, since it started."""

    service: str
    method: str
    # Those that have ended with a reply, even if nobody wants it.
    calls: int = 0
    # Those of `calls` that have ended with an error or a fault.
    failures: int = 0
    # Those of `failures` that are the method's own errors.
    errors: int = 0
    # Not counted in `calls`. Also those that were cancelled before they began.
    cancelled: int = 0
    in_flight: int = 0
    total_ns: int = 0

    def begin(self) -> int:
        """Counts a call that begins. Returns the time in nanoseconds, for `end`."""
        self.in_flight += 1
        return time.monotonic_ns()

    def end(self, began: int, reply: Reply | None) -> None:
        """Counts a call that has ended. Without a reply, it was cancelled, or the worker stops."""
        self.in_flight -= 1
        if reply is None:
            self.cancelled += 1
            return
        self.calls += 1
        self.total_ns += time.monotonic_ns() - began
        if reply.kind is not ReplyKind.RESULT:
            self.failures += 1
        if reply.kind is ReplyKind.ERROR:
            self.errors += 1

    def describe(self) -> dict[str, Any]:
        """Describes the counts as a plain value."""
        return {
            "service": self.service,
            "method": self.method,
            "calls": self.calls,
            "failures": self.failures,
            "errors": self.errors,
            "cancelled": self.cancelled,
            "in_flight": self.in_flight,
            "mean_ns": self.total_ns // self.calls if self.calls else 0,
            "total_ns": self.total_ns,
        }

    def line(self) -> str:
        """Describes the main counts in a line of text."""
        mean = self.total_ns // self.calls if self.calls else 0
        return (
            f"  {self.service}.{self.method}: {self.calls} calls, {self.failures} failures, "
            f"{self.in_flight} in flight, mean {mean / 1e6:.3f} ms"
        )
