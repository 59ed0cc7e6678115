"""Reads which worker sent a message of a stream, and in which run of the method."""

from __future__ import annotations

import json
from typing import Any

from ..protocol.names import WORKER_HEADER
from ..protocol.stream_run import StreamRun, read_run, read_worker
from ..transport.delivery import Delivery

_MAX_BYTES = 4096


def worker_of(delivery: Delivery) -> str | None:
    """Returns the id of the worker that sent a message, which is also its routing key.

    `None` if the message does not name it.
    """
    return read_worker(_header_of(delivery))


def run_of(delivery: Delivery) -> StreamRun | None:
    """Returns the run of a method that sent a message. `None` if the message does not name it."""
    return read_run(_header_of(delivery))


def _header_of(delivery: Delivery) -> Any:
    text = delivery.message.headers.get(WORKER_HEADER)
    if not isinstance(text, str) or len(text) > _MAX_BYTES:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
