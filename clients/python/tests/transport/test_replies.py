"""Replies whose channels the broker closes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from rpc_runtime.log_limit import LimitedLog
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.names import WORKER_HEADER
from rpc_runtime.transport.channel import Published
from rpc_runtime.transport.errors import ChannelLost, ConnectFailed
from rpc_runtime.transport.supervisor import Supervisor
from rpc_runtime.worker.reply_sender import ReplySender


class StubSupervisor:
    """Has one connection, whose channel is closed over the first message. Then it is closed."""

    def __init__(self) -> None:
        self.links = 0

    async def link(self) -> StubSupervisor:
        self.links += 1
        if self.links > 1:
            raise ConnectFailed("the connection was closed by this program")
        return self

    async def channel(self) -> StubSupervisor:
        return self

    async def publish(self, *_: Any, **__: Any) -> None:
        raise ChannelLost("closed", is_written=True, is_alone=True)


async def test_a_reply_is_given_up_at_once() -> None:
    supervisor = StubSupervisor()
    log = LimitedLog()
    sender = ReplySender(cast(Supervisor, supervisor), log)
    async with asyncio.timeout(10.0):
        await sender.send(Message(), "replies", None)
    assert supervisor.links == 2


class Refusing(ReplySender):
    """Its broker closes the channels over the first message."""

    def __init__(self) -> None:
        super().__init__(cast(Supervisor, StubSupervisor()), LimitedLog())
        self.sent: list[Message] = []

    async def publish(self, message: Message, *_: Any, **__: Any) -> Published:
        self.sent.append(message)
        return Published.CLOSED if len(self.sent) == 1 else Published.CONFIRMED


@pytest.mark.parametrize("headers", [{}, {WORKER_HEADER: '{"id":"1","run":2}'}])
async def test_the_fault_instead_of_a_reply_names_the_same_run(headers: dict[str, str]) -> None:
    """The caller of a stream ignores a fault that does not name it."""
    sender = Refusing()
    sent = Message(b"large", correlation_id="1", headers={**headers, "rpc-items": "5"})
    await sender.send(sent, "rpc.reply.1", None)
    _, fault = sender.sent
    assert (fault.type, fault.correlation_id, fault.headers) == ("fault", "1", headers)
    assert fault.body.startswith(b"reply_too_large")
