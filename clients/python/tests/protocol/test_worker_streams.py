"""What a worker sends for its streams, and when they end early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from rpc_runtime import Codec, Method
from rpc_runtime.deadline import now
from rpc_runtime.protocol.item_messages import IncomingGrant, read_incoming_grant, read_items
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.names import CREDIT, ITEMS_HEADER, MAX_SILENCE, WORKER_HEADER
from rpc_runtime.protocol.reply import fault_reply
from rpc_runtime.protocol.volume import UNLIMITED, Volume
from rpc_runtime.transport.channel import Published
from rpc_runtime.worker.incoming import IncomingInbox
from rpc_runtime.worker.reply_sender import ReplySender
from rpc_runtime.worker.stream_sender import StreamSender
from support.waiting import until

WATCH: Method[int] = Method("watch", returns=int, stream=True)


class StubSender:
    """Takes messages, and confirms them once the test says so."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.confirms = asyncio.Event()

    async def publish(self, message: Message, *_: Any, **__: Any) -> Published:
        self.sent.append(message)
        await self.confirms.wait()
        return Published.CONFIRMED


def stream_over(sender: StubSender) -> StreamSender:
    return StreamSender(
        cast(ReplySender, sender),
        address="rpc.reply.1",
        request=Message(correlation_id="1"),
        codec=Codec.JSON,
        run_header="run 1",
        credit=Volume(UNLIMITED, UNLIMITED),
        max_bytes=1 << 20,
    )


async def endless() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1


async def stopped_at_full_speed(stream: StreamSender, sender: StubSender) -> None:
    """Cancels a method while one message of its stream waits for confirms of the others."""
    running = asyncio.create_task(stream.send_items(WATCH, endless()))
    await until(lambda: len(sender.sent) == 16)
    for _ in range(1000):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})


async def test_the_end_of_a_stopped_stream_counts_what_was_sent() -> None:
    sender = StubSender()
    stream = stream_over(sender)
    await stopped_at_full_speed(stream, sender)
    sender.confirms.set()
    end = await stream.end(fault_reply(Codec.JSON, "interrupted", "the worker stops"))
    sent = sum(len(read_items(message.body).items) for message in sender.sent)
    assert end.headers == {ITEMS_HEADER: str(sent), WORKER_HEADER: "run 1"}


async def test_the_end_of_a_stopped_stream_counts_nothing_if_items_may_be_missing() -> None:
    """The caller would wait for them."""
    sender = StubSender()
    stream = stream_over(sender)
    await stopped_at_full_speed(stream, sender)
    fault = fault_reply(Codec.JSON, "interrupted", "the worker stops")
    ending = asyncio.create_task(stream.end(fault))
    await stream.close()
    assert (await ending).headers == {WORKER_HEADER: "run 1"}


class StubStream:
    """Records the grants for a stream from a caller."""

    def __init__(self) -> None:
        self.grants: list[IncomingGrant] = []

    async def tell(self, kind: str, body: bytes) -> None:
        assert kind == CREDIT
        self.grants.append(read_incoming_grant(body))


async def test_a_silent_caller_ends_its_stream_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method may go on after that. The event loop must not be busy meanwhile."""
    inbox, stream = IncomingInbox(100), StubStream()
    failures: list[str] = []
    fail = inbox.fail

    def count(reason: str) -> None:
        failures.append(reason)
        # If it were called in a loop, no other task would run.
        assert len(failures) == 1
        fail(reason)

    monkeypatch.setattr(inbox, "fail", count)
    inbox._heard_at = now() - MAX_SILENCE - 1.0
    granting = asyncio.create_task(inbox.send_grants(cast(StreamSender, stream), lambda: None))
    await until(lambda: granting.done() or stream.grants)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not granting.done()
    (grant,) = stream.grants
    assert grant.asks == IncomingGrant.ENOUGH
    granting.cancel()
