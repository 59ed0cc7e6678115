"""The channels of a caller on one connection, and its reply queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..protocol.names import REPLY_QUEUE_PREFIX
from ..protocol.resend import ReplyEpoch
from ..tasks import any_set
from ..transport.channel import Channel
from ..transport.delivery import Delivery
from ..transport.errors import NotFound
from ..transport.link import Link

ReplyQueueKind = Literal["resumable", "exclusive"]

_PREFETCH = 2000
# How long the reply queue lives without a consumer. In milliseconds, as RabbitMQ takes it.
_EXPIRES = 60_000
# In seconds: replies that arrive within it are acknowledged together.
_ACK_PAUSE = 0.001


@dataclass(slots=True)
class Session:
    """A publisher and the consumer of replies. If one of them is lost, so is the session."""

    publisher: Channel
    consumer: Channel
    reply_to: str
    epoch: ReplyEpoch
    # How many of the replies that waited in the queue when the session began are still to come.
    backlog: int
    is_lost: bool = False
    # Set once all of the backlog was received, or the session ended.
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    # The tag of the last reply that is not acknowledged. Zero if there is none.
    _unacked: int = 0
    _ack_timer: asyncio.TimerHandle | None = None
    _is_closing: bool = False

    def received(self, delivery: Delivery) -> None:
        """Counts a reply, and acknowledges it soon, together with others."""
        self.backlog -= 1
        if self.backlog <= 0:
            self.caught_up.set()
        self._unacked = delivery.tag
        # `close` sends the last acknowledgement itself. One after the `channel.close` would make
        # the broker close the connection.
        if self._ack_timer is None and not self._is_closing:
            self._ack_timer = asyncio.get_running_loop().call_later(_ACK_PAUSE, self._ack)

    def _ack(self) -> None:
        """Acknowledges all replies up to the last one that was received."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        # The tag 0 would also acknowledge replies that are on their way.
        if self._unacked:
            tag, self._unacked = self._unacked, 0
            self.consumer.ack(tag, is_multiple=True)

    async def lost(self) -> str:
        """Waits until the session is lost. Returns the reason."""
        await any_set(self.publisher.closed, self.consumer.closed)
        closed = self.publisher if self.publisher.closed.is_set() else self.consumer
        return closed.reason

    async def close(self) -> None:
        """Acknowledges what was received, and closes the channels that are still open."""
        self._is_closing = True
        # Nobody must wait for the rest of the backlog.
        self.caught_up.set()
        self._ack()
        await self.consumer.settled()
        await self.publisher.close()
        await self.consumer.close()


class ReplyQueue:
    """The queue at which replies arrive. A resumable one outlives its connection by a minute."""

    def __init__(self, kind: ReplyQueueKind) -> None:
        self._kind = kind
        # The resumable queue that the next session consumes too. `None` if that needs a new queue.
        self._name: str | None = None
        # The numbers of the current queue and consumer: see `ReplyEpoch`.
        self._address = 0
        self._consumer = 0

    async def open(self, link: Link, on_reply: Callable[[Delivery], None]) -> Session:
        """Opens a session. Raises `ChannelLost`."""
        consumer = await self._open_consumer_channel(link)
        publisher: Channel | None = None
        try:
            publisher = await link.channel()
            return await self._open(consumer, publisher, on_reply)
        except BaseException:
            await consumer.close()
            if publisher is not None:
                await publisher.close()
            raise

    async def _open(
        self, consumer: Channel, publisher: Channel, on_reply: Callable[[Delivery], None]
    ) -> Session:
        """Consumes the queue, or a new one if there is none, on these channels."""
        await consumer.prefetch(_PREFETCH)
        name, backlog = self._name, 0
        if name is not None:
            # The queue was found a moment ago. This asks for the number of messages in it.
            _, backlog = await consumer.declare_queue(name, is_passive=True)
        else:
            name = await self._declare(consumer)
        self._consumer += 1
        epoch = ReplyEpoch(self._address, self._consumer)
        session = Session(publisher, consumer, name, epoch, backlog)
        if backlog <= 0:
            session.caught_up.set()

        def on_delivery(delivery: Delivery) -> None:
            on_reply(delivery)
            session.received(delivery)

        await consumer.consume(name, on_delivery)
        return session

    async def _open_consumer_channel(self, link: Link) -> Channel:
        """Opens the channel for the consumer, and forgets the queue if it does not exist any more.

        The broker closes the channel that asks for a missing queue, so another one is opened.
        """
        channel = await link.channel(has_confirms=False)
        if self._name is None:
            return channel
        try:
            await channel.declare_queue(self._name, is_passive=True)
            return channel
        except NotFound:
            # Expired or deleted, with the replies in it.
            self._name = None
            return await link.channel(has_confirms=False)
        except BaseException:
            await channel.close()
            raise

    async def _declare(self, channel: Channel) -> str:
        """Declares a new queue. Returns its name."""
        self._address += 1
        if self._kind == "exclusive":
            # Deleted with its consumer, even if only the session is lost and not the connection.
            name, _ = await channel.declare_queue(
                "", is_durable=False, is_exclusive=True, is_auto_delete=True
            )
            return name
        name = f"{REPLY_QUEUE_PREFIX}{uuid.uuid4()}"
        arguments = {"x-expires": _EXPIRES, "x-queue-type": "classic"}
        await channel.declare_queue(name, arguments=arguments)
        self._name = name
        return name

    async def delete(self, link: Link) -> None:
        """Deletes a resumable queue. An exclusive one ends with its consumer.

        Raises `ChannelLost`.
        """
        if self._name is not None:
            channel = await link.channel(has_confirms=False)
            await channel.delete_queue(self._name)
            await channel.close()
