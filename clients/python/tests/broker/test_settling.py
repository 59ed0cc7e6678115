"""Each request is settled, whatever happens while it runs."""

from __future__ import annotations

from typing import Any

import pytest

import rpc_runtime
import sample
from rpc_runtime import Connection, Server
from rpc_runtime.worker import request_handler
from support.service import Implementation


async def test_a_bug_occupies_no_place(
    connection: Connection, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(request_handler, "answer", broken)
    client = sample.SampleClient(connection, queue).with_options(timeout=3.0)
    ping: rpc_runtime.Method[Any] = rpc_runtime.Method("rpc.ping", returns=None, idempotent=True)
    async with Server(connection, concurrency=1).add(Implementation(), queue):
        for _ in range(2):
            with pytest.raises(rpc_runtime.Fault) as caught:
                await client._call(ping)
            assert caught.value.code == "abandoned"
        assert await client.get_email("alice") == "alice@example.com"
