"""Reads which worker sent a message of a stream, and in which run of the method."""

from __future__ import annotations

import json
from typing import Any

from ..protocol.names import WORKER_HEADER
from ..protocol.stream_run import StreamRun, read_run, read_worker
from ..transport.delivery import Delivery

# A longer header is not parsed.
_MAX_CHARACTERS = 4096


def worker_of(delivery: Delivery) -> str | None:
    """Returns the id of the worker that sent a message. It is also the worker's routing key.

    `None` if the header `rpc-worker` cannot be read, or its id is no UUID.
    """
    return read_worker(_header_of(delivery))


def run_of(delivery: Delivery) -> StreamRun | None:
    """Returns the run of a method that sent a message. Its number is 0 if the worker sends none.

    `None` if `worker_of` returns that, or if the number is invalid.
    """
    return read_run(_header_of(delivery))


def _header_of(delivery: Delivery) -> Any:
    """Decodes the header `rpc-worker`. `None` if it is missing, too long or no JSON."""
    text = delivery.message.headers.get(WORKER_HEADER)
    if not isinstance(text, str) or len(text) > _MAX_CHARACTERS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
