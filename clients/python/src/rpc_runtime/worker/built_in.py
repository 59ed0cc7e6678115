"""The built-in methods, which workers that describe themselves answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..codec import Codec, encode
from ..describe import Method
from ..protocol.names import DESCRIBE, PING, STATS
from ..protocol.reply import Reply, ReplyKind
from .identity import Identity
from .served import ServedQueue

BUILT_IN: Mapping[str, Method[Any]] = {
    name: Method(name, returns=Any, idempotent=True) for name in (PING, DESCRIBE, STATS)
}


def answer(name: str, codec: Codec, identity: Identity, queues: Mapping[str, ServedQueue]) -> Reply:
    """Makes the reply to a built-in method. All but `rpc.ping` ask about these queues."""
    if codec is Codec.TEXT:
        body = "\n".join(_lines(name, identity, queues)).encode()
    else:
        body = encode(codec, _value(name, identity, queues))
    return Reply(ReplyKind.RESULT, codec, body)


def _value(name: str, identity: Identity, queues: Mapping[str, ServedQueue]) -> dict[str, Any]:
    worker = identity.describe()
    if name == PING:
        return worker
    if name == DESCRIBE:
        described = [served.describe(queue) for queue, served in queues.items()]
        return {"worker": worker, "queues": described}
    counted = []
    for queue, served in queues.items():
        methods = [method.stats.describe() for method in served.methods.values()]
        counted.append({"queue": queue, "methods": methods})
    return {"worker": worker, "queues": counted}


def _lines(name: str, identity: Identity, queues: Mapping[str, ServedQueue]) -> list[str]:
    lines = [identity.line()]
    if name == PING:
        return lines
    for queue, served in queues.items():
        if name == STATS:
            lines.append(f"queue {queue}")
            lines += [method.stats.line() for method in served.methods.values()]
        else:
            for service in served.services:
                lines.append(f"service {service.name} on queue {queue}")
                lines += [f"  {method.name}" for method in service.methods]
    return lines
