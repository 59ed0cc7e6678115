"""When a session acknowledges its replies."""

from __future__ import annotations

import asyncio
from typing import cast

from rpc_runtime.client.session import Session
from rpc_runtime.protocol.resend import ReplyEpoch
from rpc_runtime.transport.channel import Channel
from rpc_runtime.transport.delivery import Delivery


class StubChannel:
    """Records what is done with a channel."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def ack(self, tag: int, is_multiple: bool = False) -> None:
        assert is_multiple
        self.events.append(f"ack up to {tag}")

    async def settled(self) -> None:
        self.events.append("settled")

    async def close(self) -> None:
        self.events.append("closed")


class StubDelivery:
    def __init__(self, tag: int) -> None:
        self.tag = tag


def receive(session: Session, *tags: int) -> None:
    for tag in tags:
        session.received(cast(Delivery, StubDelivery(tag)))


def session_of(consumer: StubChannel) -> Session:
    publisher = cast(Channel, StubChannel())
    return Session(publisher, cast(Channel, consumer), "replies", ReplyEpoch(0, 1), backlog=0)


async def until_timers_ran() -> None:
    """Waits for a timer that is later than those of the session."""
    await asyncio.sleep(0.1)


async def test_replies_are_acknowledged_together() -> None:
    consumer = StubChannel()
    session = session_of(consumer)
    receive(session, 1, 2, 3)
    assert consumer.events == []
    await until_timers_ran()
    assert consumer.events == ["ack up to 3"]
    receive(session, 4)
    await until_timers_ran()
    assert consumer.events == ["ack up to 3", "ack up to 4"]


async def test_nothing_is_acknowledged_after_a_session_is_closed() -> None:
    consumer = StubChannel()
    session = session_of(consumer)
    receive(session, 1, 2)
    await session.close()
    # It was on its way. The broker delivers it to the next session.
    receive(session, 3)
    await until_timers_ran()
    assert consumer.events == ["ack up to 2", "settled", "closed"]


async def test_a_session_without_replies_acknowledges_nothing() -> None:
    consumer = StubChannel()
    await session_of(consumer).close()
    assert consumer.events == ["settled", "closed"]
