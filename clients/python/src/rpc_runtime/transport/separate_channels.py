"""Publishes messages over which the broker may close a channel, apart from all others."""

from __future__ import annotations

import asyncio

from ..protocol.message import Message
from .channel import Published
from .supervisor import Supervisor

_MAX_CHANNELS = 4


class SeparateChannels:
    """A few channels at a time, each for one message.

    The broker has closed a channel that carried the message among others. If it closes this one
    too, that is certainly over this message.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._slots = asyncio.Semaphore(_MAX_CHANNELS)

    async def publish(self, message: Message, queue: str, *, is_mandatory: bool) -> Published:
        """Publishes a message once there is a connection.

        Raises `ChannelLost`, or `ConnectFailed` if the connection was closed for good.
        """
        async with self._slots:
            link = await self._supervisor.link()
            channel = await link.channel()
            try:
                return await channel.publish(message, queue=queue, is_mandatory=is_mandatory)
            finally:
                await channel.close()
