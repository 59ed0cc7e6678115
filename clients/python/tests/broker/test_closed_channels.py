"""The broker closes a channel over a message that it does not accept."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import sample
from rpc_runtime import BrokerFailed, Connection, Executed, Fault, Server, TimedOut, connect
from rpc_runtime.client.request import Request
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.reply import Reply, ReplyKind
from rpc_runtime.transport.channel import STEP_TIMEOUT, Channel, Published
from rpc_runtime.transport.errors import ChannelLost
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until


@pytest.fixture
def client(connection: Connection, server: Server, queue: str) -> sample.SampleClient:
    return sample.SampleClient(connection, queue)


async def test_an_idempotent_request_closes_two_channels_at_most(
    client: sample.SampleClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, sent = Request.message, 0

    def make_wrong(request: Request, reply_to: str | None, time_left: float | None) -> Message:
        nonlocal sent
        message = make(request, reply_to, time_left)
        if b"wrong" in message.body:
            # Only the user itself may send a message with its name.
            message.user_id = "somebody"
            sent += 1
        return message

    monkeypatch.setattr(Request, "message", make_wrong)
    began = time.monotonic()
    others = [client.get_email("a") for _ in range(20)]
    wrong: asyncio.Future[Any] = asyncio.ensure_future(client.get_email("wrong"))
    assert await asyncio.gather(*others) == ["a@example.com"] * 20
    with pytest.raises(BrokerFailed, match="user_id") as caught:
        await wrong
    assert caught.value.executed is Executed.MAYBE
    # aiormq may lose the connection together with a channel that has other publishers.
    assert 2 <= sent <= 3
    # The broker's answers to other methods are given up only after this time.
    assert time.monotonic() - began < STEP_TIMEOUT


async def test_a_reply_that_the_broker_does_not_accept_is_a_fault(
    client: sample.SampleClient, implementation: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Reply.message

    def make_wrong(reply: Reply, request: Message) -> Message:
        message = make(reply, request)
        if reply.kind is ReplyKind.RESULT and b"wrong" in message.body:
            message.user_id = "somebody"
        return message

    monkeypatch.setattr(Reply, "message", make_wrong)
    with pytest.raises(Fault) as caught:
        await client.get_email("wrong")
    assert (caught.value.code, caught.value.executed) == ("reply_too_large", Executed.YES)
    assert implementation.runs["get_email"] == 1
    assert await client.get_email("a") == "a@example.com"


async def test_no_channel_is_left_if_others_cannot_be_opened(
    url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection has a limited number of them, and they are opened again and again."""
    consume = Channel.consume

    async def refuse(channel: Channel, name: str, *arguments: Any, **options: Any) -> str:
        if name.startswith(("rpc.reply.", "rpc.control.")):
            raise ChannelLost("a permission is missing")
        return await consume(channel, name, *arguments, **options)

    monkeypatch.setattr(Channel, "consume", refuse)
    async with connect(url, timeout=4.0) as connection:
        link = await connection.supervisor.link()
        with pytest.raises(TimedOut, match="a permission is missing"):
            await sample.SampleClient(connection, queue).get_email("a")
        with pytest.raises(BrokerFailed):
            await Server(connection).add(Implementation(), queue).start()
        await until(lambda: len(link._raw.channels) <= 3)


async def test_too_many_channels_do_not_cost_the_connection(connection: Connection) -> None:
    link = await connection.supervisor.link()
    channels = []
    with pytest.raises(ChannelLost, match="which is its limit"):
        for _ in range(3000):
            channels.append(await link.channel(has_confirms=False))  # noqa: PERF401
    assert not link.closed.is_set()
    await channels[5].close()
    assert (await link.channel()).is_open


async def test_a_message_that_cannot_be_encoded_harms_no_other(
    connection: Connection, peer: RawPeer
) -> None:
    link = await connection.supervisor.link()
    channel = await link.channel()
    wrong = Message(app_id="x" * 256)
    others = [channel.publish(Message(b"%d" % number), queue=peer.replies) for number in range(20)]
    published = await asyncio.gather(
        *others[:10],
        channel.publish(wrong, queue=peer.replies),
        *others[10:],
        return_exceptions=True,
    )
    assert isinstance(published.pop(10), ChannelLost)
    assert published == [Published.CONFIRMED] * 20
    assert [(await peer.reply()).body for _ in range(20)] == [b"%d" % n for n in range(20)]
