"""Messages whose channel the broker has closed, while the program closes the connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from rpc_runtime.log_limit import LimitedLog
from rpc_runtime.protocol.message import Message
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
