"""Reads which worker sent a message of a stream."""

from __future__ import annotations

import json

from ..protocol.names import WORKER_HEADER
from ..protocol.request_id import uuid_of
from ..transport.delivery import Delivery

_MAX_BYTES = 4096


def worker_of(delivery: Delivery) -> str | None:
    """Returns the id of the worker that sent a message, which is also its routing key.

    `None` if the message does not name it.
    """
    text = delivery.message.headers.get(WORKER_HEADER)
    if not isinstance(text, str) or len(text) > _MAX_BYTES:
        return None
    try:
        worker = json.loads(text)
    except (ValueError, RecursionError):
        return None
    identity = worker.get("id") if isinstance(worker, dict) else None
    # Text that is no UUID could be the name of a queue: as a routing key, it reaches all workers.
    return identity if isinstance(identity, str) and uuid_of(identity) is not None else None
