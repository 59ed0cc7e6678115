"""A peer that uses AMQP without this library."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp import commands


class RawPeer:
    """Publishes anything, and collects what arrives in queues of its own."""

    def __init__(self, url: str) -> None:
        self._connection = aiormq.Connection(url)
        self.channel: AbstractChannel
        self.arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        self.replies = ""

    async def __aenter__(self) -> Self:
        await self._connection.connect()
        self.channel = await self._connection.channel()
        self.replies = await self.consume_new()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def consume_new(self) -> str:
        declared = await self.channel.queue_declare("", exclusive=True)
        await self.channel.basic_consume(declared.queue or "", self.arrived.put, no_ack=True)
        return declared.queue or ""

    async def publish(
        self, queue: str, body: bytes = b"", *, exchange: str = "", **properties: Any
    ) -> None:
        await self.channel.basic_publish(
            body,
            exchange=exchange,
            routing_key=queue,
            properties=commands.Basic.Properties(**properties),
            mandatory=True,
        )

    async def reply(self, timeout: float = 30.0) -> DeliveredMessage:
        async with asyncio.timeout(timeout):
            return await self.arrived.get()

    async def get(self, queue: str) -> DeliveredMessage | None:
        got = await self.channel.basic_get(queue, no_ack=True)
        return None if isinstance(got.delivery, commands.Basic.GetEmpty) else got

    async def depth(self, queue: str) -> int:
        declared = await self.channel.queue_declare(queue, passive=True)
        return declared.message_count or 0

    async def is_empty(self, queue: str) -> bool:
        return await self.depth(queue) == 0

    async def consumers(self, queue: str) -> int:
        declared = await self.channel.queue_declare(queue, passive=True)
        return declared.consumer_count or 0

    async def is_unserved(self, queue: str) -> bool:
        return await self.consumers(queue) == 0

    async def delete(self, *queues: str) -> None:
        for queue in queues:
            await self.channel.queue_delete(queue)
