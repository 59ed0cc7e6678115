"""Publishes what a worker sends, except for jobs, over whichever connection is open."""

from __future__ import annotations

import asyncio

from ..codec import Codec, codec_of
from ..deadline import now
from ..log_limit import LimitedLog
from ..protocol import fault_code
from ..protocol.message import Message
from ..protocol.names import WORKER_HEADER
from ..protocol.reply import fault_reply
from ..protocol.reply_address import DIRECT_REPLY_TO
from ..protocol.resend import MAX_CLOSED
from ..transport.channel import Published
from ..transport.errors import ChannelLost, ConnectFailed
from ..transport.lazy_channel import LazyChannel
from ..transport.separate_channels import SeparateChannels
from ..transport.supervisor import Supervisor

# A reply is given up this long after the caller's deadline, or after the first attempt if that is
# later.
_GIVE_UP_AFTER = 30.0
# The same if the caller has no deadline, from the first attempt on.
_GIVE_UP_WITHOUT_LIMIT = 3600.0
# The pause before a message is published again.
_PAUSE = 0.05
_NOT_ACCEPTED = "the method ran, and the broker does not accept its reply"


class ReplySender:
    """Owns the channels on which replies, items and forwarded requests leave."""

    def __init__(self, supervisor: Supervisor, log: LimitedLog) -> None:
        self._supervisor = supervisor
        self._replies = LazyChannel(supervisor)
        # Apart from other replies, because a wrong address of direct reply-to closes its channel.
        self._direct = LazyChannel(supervisor)
        self._separate = SeparateChannels(supervisor)
        self._log = log

    async def send(self, reply: Message, address: str, deadline: float | None) -> None:
        """Sends a reply until the broker has confirmed or refused it, or too long has passed.

        If the broker closes channels over it, a fault is sent instead. `deadline` is the caller's,
        in the time of the event loop.
        """
        began = now()
        give_up_at = began + _GIVE_UP_WITHOUT_LIMIT
        if deadline is not None:
            give_up_at = max(began, deadline) + _GIVE_UP_AFTER
        published = await self.publish(reply, address, give_up_at, is_mandatory=False)
        # Over direct reply-to, the broker probably did not accept the address. Any other address
        # takes a fault.
        if published is Published.CLOSED and not address.startswith(DIRECT_REPLY_TO):
            codec = codec_of(reply.content_type, None) or Codec.TEXT
            fault = fault_reply(codec, fault_code.REPLY_TOO_LARGE, _NOT_ACCEPTED)
            # The caller of a stream ignores a fault that does not name its run.
            if WORKER_HEADER in reply.headers:
                fault.headers[WORKER_HEADER] = reply.headers[WORKER_HEADER]
            # The reply stands in for its request, which has the same correlation id and codec.
            replacement = fault.message(reply)
            published = await self.publish(replacement, address, give_up_at, is_mandatory=False)
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
        """Publishes a message to the queue at an address, again after each lost channel.

        `is_mandatory` has no effect with direct reply-to. Returns `None` if it does not succeed in
        time, or if the connection was closed for good.
        """
        is_direct = address.startswith(DIRECT_REPLY_TO)
        channel = self._direct if is_direct else self._replies
        channels_closed = 0
        while now() < give_up_at:
            try:
                async with asyncio.timeout_at(give_up_at):
                    # The broker may close this channel too. No other message is on it.
                    if channels_closed and not is_direct:
                        return await self._separate.publish(
                            message, address, is_mandatory=is_mandatory
                        )
                    return await channel.publish(
                        message, queue=address, is_mandatory=is_mandatory and not is_direct
                    )
            except (TimeoutError, ConnectFailed):
                return None
            except ChannelLost as error:
                # Over a wrong address of direct reply-to, the broker may close the connection too.
                may_be_address = is_direct and error.is_written
                if error.is_alone or may_be_address:
                    channels_closed += 1
                if channels_closed >= MAX_CLOSED:
                    return Published.CLOSED
                await asyncio.sleep(_PAUSE)
        return None

    async def close(self) -> None:
        """Closes the channels."""
        await self._replies.close()
        await self._direct.close()
