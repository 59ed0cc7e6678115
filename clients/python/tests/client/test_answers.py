"""What a broadcast knows of its workers, with a connection that is not real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

import sample
from rpc_runtime import BrokerFailed, Connection, Executed, TimedOut, WorkerInfo, connect
from rpc_runtime.client import answers
from rpc_runtime.client.answers import Answers
from rpc_runtime.protocol.message import Message
from rpc_runtime.protocol.names import WORKER_HEADER
from rpc_runtime.transport.blocking import Blocking
from rpc_runtime.transport.channel import Channel, Published
from rpc_runtime.transport.delivery import Delivery
from rpc_runtime.transport.errors import ChannelLost, Forbidden
from rpc_runtime.transport.link import Link

OnDelivery = Callable[[Delivery], None]


class StubChannel:
    """A channel of a `StubLink`."""

    is_open = True

    def __init__(self, broker: StubLink) -> None:
        self._broker = broker

    async def unblocked(self) -> None:
        await self._broker.blocking.unblocked.wait()
        await asyncio.sleep(self._broker.pause)

    async def publish(self, message: Message, **_: Any) -> Published:
        return self._broker.publish(message)

    async def prefetch(self, _: int) -> None:
        pass

    async def declare_queue(self, *_: Any, **__: Any) -> tuple[str, int]:
        if self._broker.refusal is not None:
            raise self._broker.refusal
        return "answers", 0

    async def consume(self, _: str, on_delivery: OnDelivery) -> None:
        self._broker.on_delivery = on_delivery

    def ack(self, _: int) -> None:
        pass

    async def close(self) -> None:
        pass


class StubLink:
    """A connection whose broker confirms what is published, or does what a test says."""

    def __init__(self) -> None:
        self.blocking = Blocking()
        self.closed = asyncio.Event()
        self.published: list[Message] = []
        # What becomes of the messages.
        self.outcome = Published.CONFIRMED
        # How long each message waits before it is written.
        self.pause = 0.0
        # Why no queue can be declared.
        self.refusal: Exception | None = None
        self.on_delivery: OnDelivery | None = None
        # Is called with each message.
        self.on_published: Callable[[Message], None] = lambda _: None

    async def channel(self, **_: Any) -> StubChannel:
        await asyncio.sleep(0)
        return StubChannel(self)

    def publish(self, message: Message) -> Published:
        self.published.append(message)
        self.on_published(message)
        return self.outcome

    def answer(self, correlation_id: str | None, header: str | None = None) -> None:
        headers = {} if header is None else {WORKER_HEADER: header}
        message = Message(b"7", type="result", correlation_id=correlation_id, headers=headers)
        assert self.on_delivery is not None
        channel = cast(Channel, StubChannel(self))
        self.on_delivery(Delivery(message, 1, False, "", "answers", channel))


@pytest.fixture
def link() -> StubLink:
    return StubLink()


@pytest.fixture
def connection(link: StubLink) -> Connection:
    connection = connect()
    connection.supervisor._set_link(cast(Link, link))
    return connection


@pytest.fixture
def client(connection: Connection) -> sample.SampleClient:
    return sample.SampleClient(connection).with_options(timeout=100.0)


@pytest.mark.parametrize("is_oneway", [False, True])
async def test_a_broadcast_that_was_returned_has_not_run(
    client: sample.SampleClient, link: StubLink, is_oneway: bool
) -> None:
    """The broker blocks the connection once it has returned the message."""
    link.outcome = Published.RETURNED
    link.on_published = lambda _: link.blocking.set(True)
    client = client.with_options(wait_for_server=True, timeout=1.0)
    with pytest.raises(TimedOut, match="the broker blocks publishers") as caught:
        if is_oneway:
            await client.clear()
        else:
            await client.reload("now").collect()
    assert len(link.published) == 1
    assert caught.value.executed is Executed.NO


async def test_a_request_expires_at_the_limit_even_if_it_was_held_back(
    client: sample.SampleClient, link: StubLink
) -> None:
    link.pause = 0.5
    link.on_published = lambda message: link.answer(message.correlation_id)
    await client.with_options(timeout=10.0, expect_workers=1).reload("now").collect()
    (message,) = link.published
    assert 0 < int(message.expiration or "") <= 9600


async def test_a_missing_permission_ends_a_broadcast_at_once(
    client: sample.SampleClient, link: StubLink
) -> None:
    link.refusal = Forbidden("ACCESS_REFUSED to queue amq.gen-1", is_alone=True)
    async with asyncio.timeout(30):
        with pytest.raises(BrokerFailed, match="ACCESS_REFUSED") as caught:
            await client.reload("now").collect()
    assert caught.value.executed is Executed.NO
    assert link.published == []


async def test_the_last_failure_of_a_channel_explains_that_time_has_passed(
    client: sample.SampleClient, link: StubLink
) -> None:
    link.refusal = ChannelLost("the connection has 2047 channels, which is its limit")
    with pytest.raises(TimedOut, match="which is its limit") as caught:
        await client.with_options(timeout=0.5).reload("now").collect()
    assert caught.value.executed is Executed.NO


def worker(identity: str) -> str:
    return json.dumps({"id": identity, "name": f"worker {identity}"})


async def begun(client: sample.SampleClient, link: StubLink) -> tuple[Answers[Any], str]:
    """Begins a broadcast with its first answer. Returns the correlation id too."""
    link.on_published = lambda message: link.answer(message.correlation_id, worker("first"))
    gathered: Answers[Any] = client.reload("now")
    assert (await anext(gathered)).worker == WorkerInfo("first", "worker first")
    return gathered, link.published[0].correlation_id or ""


async def test_an_answer_without_a_worker_counts_each_time(
    client: sample.SampleClient, link: StubLink
) -> None:
    gathered, identity = await begun(client.with_options(expect_workers=4), link)
    for header in (None, "{", worker("first"), worker("x" * 1024), worker("last")):
        link.answer(identity, header)
    link.answer("foreign", worker("foreign"))
    rest = await gathered.collect()
    assert [answer.worker.id for answer in rest] == ["", "", ""]
    assert str(rest[0].worker) == "an unknown worker"
    assert gathered.missing == 0


async def test_messages_that_are_no_answers_end_gathering(
    client: sample.SampleClient, link: StubLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_MAX_IGNORED", 5)
    gathered, identity = await begun(client.with_options(expect_workers=3), link)
    for _ in range(2):
        link.answer(identity, worker("first"))
        link.answer("foreign", worker("second"))
    link.answer(identity, worker("third"))
    assert (await anext(gathered)).worker.id == "third"
    link.answer(None)
    link.answer(identity, worker("fourth"))
    async with asyncio.timeout(30):
        assert await gathered.collect() == []
    assert gathered.missing == 1


async def test_so_many_answers_end_gathering_whatever_is_expected(
    client: sample.SampleClient, link: StubLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_MAX_ANSWERS", 3)
    gathered, identity = await begun(client.with_options(expect_workers=9), link)
    for number in range(5):
        link.answer(identity, worker(str(number)))
    async with asyncio.timeout(30):
        assert [answer.worker.id for answer in await gathered.collect()] == ["0", "1"]
    assert gathered.missing == 6
