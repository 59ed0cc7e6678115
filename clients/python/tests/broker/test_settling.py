"""Each request is settled, whatever happens while it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rpc_runtime
import sample
from rpc_runtime import Connection, Server
from rpc_runtime.protocol.message import Message
from rpc_runtime.worker import request_handler
from support.proxy import Proxy
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until


async def test_a_bug_occupies_no_place(
    connection: Connection, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(request_handler, "answer", broken)
    client = sample.SampleClient(connection, queue)
    ping: rpc_runtime.Method[Any] = rpc_runtime.Method("rpc.ping", returns=None, idempotent=True)
    async with Server(connection, concurrency=1).add(Implementation(), queue):
        for _ in range(2):
            with pytest.raises(rpc_runtime.Fault) as caught:
                await client._call(ping)
            assert caught.value.code == "abandoned"
        assert await client.get_email("alice") == "alice@example.com"


async def test_the_reply_of_a_built_in_method_is_given_up_after_the_time_of_its_request(
    server: Server, peer: RawPeer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    send = server._shared.sender.send
    deadlines: list[float | None] = []

    async def record(reply: Message, address: str, deadline: float | None) -> None:
        deadlines.append(None if deadline is None else deadline - loop.time())
        await send(reply, address, deadline)

    monkeypatch.setattr(server._shared.sender, "send", record)
    for expiration in ("60000", None):
        await peer.publish(
            queue, message_type="rpc.ping", reply_to=peer.replies, expiration=expiration
        )
        assert (await peer.reply()).body.startswith(b"worker ")
    limited, unlimited = deadlines
    assert limited is not None
    assert 0.0 < limited <= 60.0
    assert unlimited is None


class _Failing(Implementation):
    async def send_mail(self, to: str) -> None:
        await super().send_mail(to)
        if self.runs["send_mail"] == 1:
            raise RuntimeError("broken")


async def test_a_job_that_fails_after_its_connection_was_lost_is_not_kept_back(
    connection: Connection, proxy: Proxy, queue: str
) -> None:
    """The broker delivers it again while it runs. That delivery must be settled too."""
    implementation = _Failing()
    async with (
        rpc_runtime.connect(proxy.url) as far,
        Server(far, concurrency=1).add(implementation, queue) as server,
    ):
        await sample.SampleClient(connection, queue).send_mail("slow")
        await until(implementation.began.is_set)
        proxy.cut()
        await until(lambda: server._handlers[queue].joined == 1)
        implementation.release.set()
        await until(lambda: implementation.ended["mail"] == 2)
        assert await sample.SampleClient(connection, queue).get_email("a") == "a@example.com"
