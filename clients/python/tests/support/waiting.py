"""Waits for what a test expects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from rpc_runtime import Connection
from rpc_runtime.transport.errors import NotFound


async def until(is_so: Callable[[], Any], timeout: float = 30.0) -> None:
    """Waits until a condition holds. The limit is for conditions that never do."""
    async with asyncio.timeout(timeout):
        while True:
            answer = is_so()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.01)


async def until_disconnected(connection: Connection) -> None:
    """Waits until a lost connection is noticed."""
    await until(lambda: connection.supervisor._link is None)


async def until_deleted(connection: Connection, queue: str) -> None:
    """Waits until a queue is deleted that only this connection may use."""

    async def is_deleted() -> bool:
        link = await connection.supervisor.link()
        channel = await link.channel(has_confirms=False)
        try:
            await channel.declare_queue(queue, is_passive=True)
        except NotFound:
            return True
        finally:
            await channel.close()
        return False

    await until(is_deleted)
