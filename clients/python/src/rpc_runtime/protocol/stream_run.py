"""Tells the runs of a method from each other.

A request that is delivered again may run again, on another worker or on the same one. The messages
of both runs reach the caller, and a stream must not have items of both.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from .request_id import uuid_of

_MAX_NUMBER = 2**64 - 1


@dataclass(frozen=True, slots=True)
class StreamRun:
    """A run of a method with streams, as the header `rpc-worker` of its messages identifies it."""

    # The id of the worker, which is also its routing key.
    worker: str
    # Higher than that of each stream that the worker began before. 0 if it does not number them.
    number: int


class Origin(enum.Enum):
    """Who sends a message, compared with the run whose stream is read."""

    SAME_RUN = "the same run"
    # An earlier run on the same worker, which has ended.
    EARLIER_RUN = "an earlier run"
    # A later run on the same worker. A worker never runs a request twice at a time for the same
    # reply address, so the run whose stream is read has ended, or sends to another address.
    LATER_RUN = "a later run"
    # Another worker, or nobody knows who.
    OTHER_WORKER = "another worker"


def origin_of(message: StreamRun | None, stream: StreamRun) -> Origin:
    """Compares the run that sends a message with the run whose stream is read.

    `message` is `None` if the message does not name its run.
    """
    if message is None or message.worker != stream.worker:
        return Origin.OTHER_WORKER
    if message.number == stream.number:
        return Origin.SAME_RUN
    return Origin.LATER_RUN if message.number > stream.number else Origin.EARLIER_RUN


def read_worker(header: Any) -> str | None:
    """Reads the id of the worker from a decoded header `rpc-worker`. `None` if it is no UUID."""
    identity = header.get("id") if isinstance(header, dict) else None
    # Other text could be the name of a queue: as a routing key, that reaches all its workers.
    return identity if isinstance(identity, str) and uuid_of(identity) is not None else None


def read_run(header: Any) -> StreamRun | None:
    """Reads the run from a decoded header `rpc-worker`. `None` if it does not name one."""
    worker = read_worker(header)
    if worker is None:
        return None
    # Some workers do not number their runs: they count as one.
    number = header.get("run", 0)
    is_number = isinstance(number, int) and not isinstance(number, bool)
    return StreamRun(worker, number) if is_number and 0 <= number <= _MAX_NUMBER else None
