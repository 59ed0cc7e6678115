"""A channel for publishing that is opened when it is needed, and again after a loss."""

from __future__ import annotations

import asyncio

from ..protocol.message import Message
from .channel import Channel, Published
from .supervisor import Supervisor


class LazyChannel:
    """Owns one channel at a time."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def get(self) -> Channel:
        """Returns an open channel. Waits for a connection.

        Raises `ChannelLost`, or `ConnectFailed` if the connection was closed for good.
        """
        if self._channel is not None and self._channel.is_open:
            return self._channel
        async with self._opening:
            # Another task may have opened it meanwhile.
            if self._channel is None or not self._channel.is_open:
                self._channel = None
                link = await self._supervisor.link()
                self._channel = await link.channel()
            return self._channel

    async def publish(
        self, message: Message, *, queue: str, exchange: str = "", is_mandatory: bool = False
    ) -> Published:
        """Publishes a message as `Channel.publish` does, once there is a channel.

        Also raises the errors of `get`.
        """
        channel = await self.get()
        return await channel.publish(
            message, queue=queue, exchange=exchange, is_mandatory=is_mandatory
        )

    async def close(self) -> None:
        """Closes the channel. A later use opens another one."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
