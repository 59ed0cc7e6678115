"""Sends what a worker publishes, over the connection that there is."""

from __future__ import annotations

import asyncio

from ..deadline import now
from ..log_limit import LimitedLog
from ..protocol.message import Message
from ..protocol.reply_address import DIRECT_REPLY_TO
from ..transport.channel import Published
from ..transport.errors import ChannelLost, ConnectFailed
from ..transport.lazy_channel import LazyChannel
from ..transport.supervisor import Supervisor

# After the caller's time limit.
_GIVE_UP_AFTER = 30.0
_GIVE_UP_WITHOUT_LIMIT = 3600.0
_PAUSE = 0.05
_MAX_CLOSED = 2


class ReplySender:
    """Owns the channels on which replies and items leave."""

    def __init__(self, supervisor: Supervisor, log: LimitedLog) -> None:
        self._supervisor = supervisor
        self._replies = LazyChannel(supervisor)
        # The broker closes a channel because of an address of direct reply-to that is wrong.
        self._direct = LazyChannel(supervisor)
        self._log = log

    async def send(self, message: Message, address: str, deadline: float | None) -> None:
        """Sends a reply until the broker has confirmed or refused it, or too long has passed."""
        began = now()
        give_up_at = began + _GIVE_UP_WITHOUT_LIMIT
        if deadline is not None:
            give_up_at = max(began, deadline) + _GIVE_UP_AFTER
        published = await self.publish(message, address, give_up_at, is_mandatory=False)
        if published is None:
            self._log.report("reply", "a reply could not be sent in time, and was given up")

    async def publish(
        self,
        message: Message,
        address: str,
        give_up_at: float,
        *,
        is_mandatory: bool,
    ) -> Published | None:
        """Publishes to a reply address. `None` if that does not succeed in time."""
        is_direct = address.startswith(DIRECT_REPLY_TO)
        channel = self._direct if is_direct else self._replies
        closed = 0
        while now() < give_up_at:
            try:
                async with asyncio.timeout_at(give_up_at):
                    return await channel.publish(
                        message, queue=address, is_mandatory=is_mandatory and not is_direct
                    )
            except TimeoutError:
                return None
            except ConnectFailed:
                return None
            except ChannelLost as error:
                if error.is_written and is_direct:
                    closed += 1
                    if closed >= _MAX_CLOSED:
                        return Published.REFUSED
                await asyncio.sleep(_PAUSE)
        return None

    async def close(self) -> None:
        """Closes the channels."""
        await self._replies.close()
        await self._direct.close()
