"""A server whose queues cannot be served for a while."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from rpc_runtime.connection import Connection
from rpc_runtime.tasks import cancel_and_wait
from rpc_runtime.transport.errors import ChannelLost
from rpc_runtime.transport.link import Link
from rpc_runtime.worker.control import ControlServer
from rpc_runtime.worker.server import Server


class StubConnection:
    """Is open all the time."""

    app_id = "test"

    @property
    def supervisor(self) -> StubConnection:
        return self

    async def link(self) -> StubConnection:
        return self


class StubControl:
    """Opens its queue, and counts how often its callers became unreachable again."""

    def __init__(self) -> None:
        self.is_needed = True
        self.opened = 0
        self.lost_again = asyncio.Event()

    async def open(self, _: Link) -> list[Any]:
        self.opened += 1
        return []

    def ignore_silence(self) -> None:
        if self.opened > 0:
            self.lost_again.set()


class Failing(Server):
    """Opens the queue for control messages, and fails to open the others."""

    async def _open(self, link: Link) -> None:
        await super()._open(link)
        raise ChannelLost("the queue is not available")


async def test_callers_are_not_silent_while_the_queues_cannot_be_opened_again() -> None:
    server = Failing(cast(Connection, StubConnection()))
    control = StubControl()
    server._control = cast(ControlServer, control)
    # It has served before.
    server._ready.set()
    serving = asyncio.create_task(server._run())
    async with asyncio.timeout(10.0):
        await control.lost_again.wait()
    await cancel_and_wait(serving)
