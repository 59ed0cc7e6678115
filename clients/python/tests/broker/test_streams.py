"""Streams in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest

import sample
from rpc_runtime import (
    U64,
    BadItem,
    BadReply,
    BrokerFailed,
    Codec,
    Connection,
    Executed,
    Fault,
    NoServer,
    Server,
    TimedOut,
    connect,
)
from rpc_runtime.client.stream_inbox import StreamInbox
from rpc_runtime.protocol.item_messages import IncomingGrant, write_incoming_grant
from rpc_runtime.protocol.request_id import new_id
from rpc_runtime.worker import request_handler
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until

codecs = pytest.mark.parametrize("codec", [Codec.MESSAGE_PACK, Codec.JSON])


@pytest.fixture
def client(connection: Connection, server: Server, queue: str) -> sample.SampleClient:
    return sample.SampleClient(connection, queue)


@codecs
async def test_items_arrive_in_order(client: sample.SampleClient, codec: Codec) -> None:
    client = client.with_options(codec=codec)
    trades = [trade async for trade in client.trades("ACME")]
    assert trades == [sample.EventDeleted(id=number) for number in range(3)]
    assert [number async for number in client.entries("20000")] == list(range(20_000))
    assert [number async for number in client.entries("0")] == []


async def test_little_credit_is_enough(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    client = client.with_options(credit=2, credit_bytes=30)
    assert [number async for number in client.entries("500")] == list(range(500))


@codecs
async def test_an_error_is_the_last_item(client: sample.SampleClient, codec: Codec) -> None:
    arrived = []
    with pytest.raises(sample.QueryErrorNoRoute):
        async for trade in client.with_options(codec=codec).trades("bad"):
            arrived.append(trade)  # noqa: PERF401
    assert len(arrived) == 3
    with pytest.raises(Fault, match="panicked"):
        async for _ in client.trades("crash"):
            pass


async def test_a_stream_without_a_worker_fails(connection: Connection) -> None:
    with pytest.raises(NoServer):
        await anext(sample.SampleClient(connection, "test.python.missing").trades("a"))


async def test_a_reader_that_leaves_ends_the_method(
    client: sample.SampleClient, implementation: Implementation, connection: Connection
) -> None:
    async for number in client.entries("endless"):
        if number == 10:
            break
    await until(lambda: implementation.ended["entries"] == 1)
    stream = client.entries("endless")
    assert await anext(stream) == 0
    await stream.aclose()
    await until(lambda: implementation.ended["entries"] == 2)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert connection.caller.in_flight == 0


async def test_a_cancelled_reader_ends_the_method(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    async def read() -> None:
        async for _ in client.trades("idle"):
            pass

    task = asyncio.create_task(read())
    await until(lambda: implementation.runs["idle"] == 1)
    task.cancel()
    await until(lambda: implementation.ended["trades"] == 1)


async def test_a_slow_reader_slows_the_method_down(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    stream = client.with_options(credit=10).entries("endless")
    assert await anext(stream) == 0
    # One item was read, and ten may be on their way or wait.
    (inbox,) = client._connection.caller._calls.values()
    assert isinstance(inbox, StreamInbox)
    receiver = inbox.receiver
    await until(lambda: not receiver.misses_before(10))
    # Time in which another item could arrive.
    await asyncio.sleep(0.3)
    assert receiver.misses_before(11)
    await stream.aclose()


async def test_each_wait_is_limited(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    stream = client.with_options(timeout=4.0).trades("idle")
    for number in range(3):
        assert await anext(stream) == sample.EventDeleted(id=number)
    with pytest.raises(TimedOut):
        await anext(stream)
    await until(lambda: implementation.ended["trades"] == 1)


async def test_a_caller_without_credit_gets_an_array(
    server: Server, peer: RawPeer, queue: str
) -> None:
    await peer.publish(
        queue,
        b'{"account":"3","after":null}',
        message_type="entries",
        content_type="application/json",
        reply_to=peer.replies,
        correlation_id="1",
    )
    assert (await peer.reply()).body == b"[0,1,2]"


async def test_items_that_are_sent_in_one_reply_are_read(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    """A worker of another library may ignore the credit."""
    await peer.channel.queue_declare(queue)
    stream = sample.SampleClient(connection, queue).with_options(codec=Codec.JSON).entries("2")
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: peer.depth(queue))
    request = await peer.get(queue)
    assert request is not None
    properties = request.header.properties
    assert (properties.headers or {})["rpc-credit"] == "1048576"
    await peer.publish(
        properties.reply_to or "", b"[7,8]", correlation_id=properties.correlation_id
    )
    assert [await first, *[number async for number in stream]] == [7, 8]


async def test_streams_do_not_occupy_the_places_of_requests(
    connection: Connection, implementation: Implementation, queue: str
) -> None:
    async with Server(connection, concurrency=2).add(implementation, queue):
        client = sample.SampleClient(connection, queue)
        streams = [client.with_options(credit=1).entries("endless") for _ in range(2)]
        for stream in streams:
            await anext(stream)
        assert await client.get_email("a") == "a@example.com"
        for stream in streams:
            await stream.aclose()


async def test_a_stream_is_resumed_after_the_last_item(
    connection: Connection, url: str, queue: str
) -> None:
    first, second = Implementation(), Implementation()
    client = sample.SampleClient(connection, queue).with_options(credit=16)
    async with connect(url) as other:
        server = Server(other, drain_timeout=0.0).add(first, queue)
        await server.start()
        stream = client.entries("400")
        arrived = [await anext(stream) for _ in range(50)]
        await server.stop()
    async with Server(connection).add(second, queue):
        arrived += [number async for number in stream]
    assert arrived == list(range(400))
    assert second.runs["entries"] == 1


async def test_a_stream_ends_with_a_connection_that_is_closed_for_good(
    server: Server, url: str, queue: str
) -> None:
    """It can be resumed, but not by this connection."""
    async with connect(url) as connection:
        client = sample.SampleClient(connection, queue).with_options(timeout=120.0)
        stream = client.entries("slow")
        await anext(stream)
        await connection.close()
        with pytest.raises(BrokerFailed, match="closed by this program"):
            async with asyncio.timeout(60):
                async for _ in stream:
                    pass


async def test_a_cancelled_stream_is_forgotten_for_as_long_as_its_request_can_wait(
    connection: Connection, peer: RawPeer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = []

    def record(key: str, _: bytes, time_left: float) -> None:
        cancelled.append((key, time_left))

    monkeypatch.setattr(connection.caller.control, "cancel", record)
    await peer.channel.queue_declare(queue)
    stream = sample.SampleClient(connection, queue).with_options(timeout=100.0).entries("1")
    first = asyncio.ensure_future(anext(stream))
    await until(lambda: peer.depth(queue))
    first.cancel()
    await asyncio.wait({first})
    ((key, time_left),) = cancelled
    assert key == queue
    assert 30.0 < time_left <= 100.0


async def test_only_the_size_of_each_item_is_limited(url: str, server: Server, queue: str) -> None:
    async with connect(url, max_accepted_bytes=12) as connection:
        client = sample.SampleClient(connection, queue)
        assert [number async for number in client.entries("5000")] == list(range(5000))
        with pytest.raises(BadReply, match="an item has"):
            await anext(client.trades("ACME"))


@codecs
async def test_a_method_receives_items(client: sample.SampleClient, codec: Codec) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(3000):
            yield b"x" * (number % 7)
            if number % 500 == 0:
                await asyncio.sleep(0)

    client = client.with_options(codec=codec)
    assert await client.upload("a", parts()) == sum(number % 7 for number in range(3000))
    assert await client.upload("a", [b"x" * 1000] * 500) == 500_000
    assert await client.upload("a", []) == 0


async def test_more_than_fits_at_once(client: sample.SampleClient) -> None:
    assert await client.upload("slow", [b"x" * 1024 * 1024] * 12) == 12 * 1024 * 1024


async def test_a_method_that_has_enough_ends_the_upload(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    assert await client.upload("enough", endless()) == 11
    await asyncio.wait_for(closed.wait(), 30)
    with pytest.raises(sample.StoreError) as caught:
        await client.upload("full", endless())
    assert (caught.value.part, caught.value.reason) == (1, "full")


async def test_an_item_that_cannot_be_sent_ends_the_call(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    with pytest.raises(BadItem, match="expected bytes, found an integer"):
        await client.upload("a", [b"x", 7])  # type: ignore[list-item]
    await until(lambda: implementation.ended["upload"] == 1)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise OSError("no disk")

    with pytest.raises(BadItem, match="OSError") as caught:
        await client.upload("a", broken())
    assert isinstance(caught.value.__cause__, OSError)


async def test_an_error_of_a_nested_call_is_not_that_of_the_upload(
    client: sample.SampleClient, connection: Connection
) -> None:
    async def nested() -> AsyncIterator[bytes]:
        yield b"x"
        await sample.SampleClient(connection, "test.python.missing").get_email("a")

    with pytest.raises(BadItem, match="NoServer") as caught:
        await client.upload("a", nested())
    assert caught.value.executed is Executed.MAYBE
    assert isinstance(caught.value.__cause__, NoServer)
    assert caught.value.__cause__.executed is Executed.NO


async def test_what_cannot_be_iterated_ends_the_call(client: sample.SampleClient) -> None:
    with pytest.raises(BadItem, match="TypeError"):
        await client.upload("a", 5)  # type: ignore[arg-type]


async def test_an_upload_may_take_longer_than_its_timeout(client: sample.SampleClient) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(1.2)
            yield b"x"

    assert await client.with_options(timeout=4.0).upload("a", slowly()) == 4


async def test_the_caller_does_not_wait_for_a_method_that_takes_nothing(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    with pytest.raises(TimedOut):
        await client.with_options(timeout=4.0).upload("hang", [b"x"])
    await until(lambda: implementation.ended["hang"] == 1)


async def test_streams_in_both_directions(client: sample.SampleClient) -> None:
    lines = asyncio.Queue[str]()

    async def typed() -> AsyncIterator[str]:
        while (line := await lines.get()) != "bye":
            yield line

    chat = client.chat("lobby", typed())
    lines.put_nowait("hello")
    assert await anext(chat) == "lobby: hello"
    lines.put_nowait("again")
    assert await anext(chat) == "lobby: again"
    lines.put_nowait("bye")
    with pytest.raises(StopAsyncIteration):
        await anext(chat)


async def test_a_request_without_items_is_refused(
    server: Server, peer: RawPeer, queue: str
) -> None:
    await peer.publish(
        queue,
        b'{"name":"a"}',
        message_type="upload",
        content_type="application/json",
        reply_to=peer.replies,
        correlation_id="1",
    )
    reply = await peer.reply()
    assert b"bad_request" in reply.body


async def test_news_of_the_worker_does_not_extend_the_time_of_a_call_that_sends_items(
    client: sample.SampleClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a method that takes items goes on."""
    monkeypatch.setattr("rpc_runtime.client.upload.KEEP_ALIVE", 0.1)
    parts = [b"x" * 1024 * 1024] * 12
    async with asyncio.timeout(30.0):
        with pytest.raises(TimedOut):
            await client.with_options(timeout=2.0).upload("hang", parts)


@dataclass
class Asked:
    """A request that a test answers as a worker, in several runs."""

    peer: RawPeer
    address: str
    correlation_id: str
    worker: str

    async def send(self, run: int, kind: str, body: bytes, **headers: str) -> None:
        worker = json.dumps({"id": self.worker, "run": run})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.peer.publish(
            self.address,
            body,
            correlation_id=self.correlation_id,
            content_type="application/json",
            message_type=kind,
            headers={"rpc-worker": worker, **named},
        )

    async def send_items(self, run: int, first: int, *items: bytes) -> None:
        await self.send(run, "rpc.items", msgpack.packb([first, list(items)]))

    async def end(self, run: int, count: int) -> None:
        await self.send(run, "result", b"", rpc_items=str(count))


async def asked(peer: RawPeer, queue: str, worker: str) -> Asked:
    """Waits for a request."""
    await until(lambda: peer.depth(queue))
    request = await peer.get(queue)
    assert request is not None
    properties = request.header.properties
    return Asked(peer, properties.reply_to or "", properties.correlation_id or "", worker)


async def worker_of_peer(peer: RawPeer, queue: str) -> str:
    """Makes the queues of a worker that a test plays. Returns its id."""
    worker = new_id()
    await peer.channel.queue_declare(queue)
    await peer.channel.exchange_declare("rpc.control", exchange_type="direct", durable=True)
    for key in (worker, queue):
        await peer.channel.queue_bind(peer.replies, "rpc.control", key)
    return worker


async def test_a_reader_gets_the_items_of_one_run(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    """The worker runs a request again that was delivered to it again."""
    worker = await worker_of_peer(peer, queue)
    stream = sample.SampleClient(connection, queue).with_options(codec=Codec.JSON).trades("a")
    first = asyncio.ensure_future(anext(stream))
    request = await asked(peer, queue, worker)
    # The first message of the first run was lost, so its reader has no item.
    await request.send_items(1, 1, event(101))
    await request.send_items(2, 0, event(200))
    assert await first == sample.EventDeleted(id=200)
    await request.send_items(1, 0, event(100))
    await request.end(1, 2)
    await request.send_items(2, 1, event(201))
    assert await anext(stream) == sample.EventDeleted(id=201)
    await request.send_items(3, 0, event(300))
    with pytest.raises(Fault, match="began the stream again") as caught:
        await anext(stream)
    assert caught.value.code == "interrupted"
    # Late messages do not end the stream of their worker. The call does, through its queue.
    assert await first_cancelled(peer) == queue


async def test_a_later_run_interrupts_a_stream_that_can_be_resumed(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    worker = await worker_of_peer(peer, queue)
    stream = sample.SampleClient(connection, queue).with_options(codec=Codec.JSON).entries("a")
    first = asyncio.ensure_future(anext(stream))
    request = await asked(peer, queue, worker)
    await request.send_items(1, 0, b"7")
    assert await first == 7
    await request.send_items(2, 0, b"700")
    second = asyncio.ensure_future(anext(stream))
    again = await asked(peer, queue, worker)
    assert again.correlation_id != request.correlation_id
    await again.send_items(3, 0, b"8")
    await again.end(3, 1)
    assert [await second, *[number async for number in stream]] == [8]


async def test_a_later_run_does_not_get_items_that_were_sent_to_another(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    worker = await worker_of_peer(peer, queue)
    call = asyncio.ensure_future(sample.SampleClient(connection, queue).upload("a", [b"1"]))
    request = await asked(peer, queue, worker)
    grant = write_incoming_grant(IncomingGrant(8, 0, IncomingGrant.NOTHING))
    await request.send(1, "rpc.credit", grant)
    await request.send(2, "rpc.credit", grant)
    with pytest.raises(Fault) as caught:
        await call
    assert caught.value.code == "interrupted"


async def test_a_worker_numbers_its_streams(server: Server, peer: RawPeer, queue: str) -> None:
    runs = []
    for method, arguments, headers in [
        ("entries", {"account": "1", "after": None}, {"rpc-credit": "9"}),
        ("upload", {"name": "a"}, {"rpc-incoming": "1"}),
        ("entries", {"account": "1", "after": None}, {"rpc-credit": "9"}),
    ]:
        identity = new_id()
        await peer.publish(
            queue,
            json.dumps(arguments).encode(),
            message_type=method,
            content_type="application/json",
            reply_to=peer.replies,
            correlation_id=identity,
            headers=headers,
        )
        first = await worker_header(peer, identity)
        if method == "entries":
            # The end is of the same run.
            assert await worker_header(peer, identity) == first
        assert first["id"] == server.id
        runs.append(first["run"])
    assert runs[0] < runs[1] < runs[2]


async def publish_stream(
    peer: RawPeer, queue: str, method: str, identity: str, **properties: Any
) -> None:
    """Publishes a request of a method with streams, from an address of the peer."""
    arguments, headers = {
        "entries": ({"account": "slow", "after": None}, {"rpc-credit": "9"}),
        "upload": ({"name": "a"}, {"rpc-incoming": "1"}),
    }[method]
    await peer.publish(
        queue,
        json.dumps(arguments).encode(),
        message_type=method,
        content_type="application/json",
        reply_to=properties.get("reply_to", peer.replies),
        correlation_id=identity,
        headers=headers | properties.get("headers", {}),
    )


@pytest.mark.parametrize("method", ["entries", "upload"])
async def test_a_request_from_a_new_address_ends_the_stream_that_went_to_the_old_one(
    server: Server, implementation: Implementation, peer: RawPeer, queue: str, method: str
) -> None:
    identity, new_address = new_id(), await peer.consume_new()
    await publish_stream(peer, queue, method, identity)
    await until(lambda: implementation.runs[method] == 1)
    resent = {"reply_to": new_address, "headers": {"rpc-resent": ""}}
    await publish_stream(peer, queue, method, identity, **resent)
    await until(lambda: implementation.runs[method] == 2)
    assert implementation.ended[method] == 1
    while (message := await peer.reply()).routing_key != new_address:
        pass
    assert message.header.properties.message_type != "fault"
    if method == "upload":
        # The items are for the new run.
        await peer.publish(
            f"{server.id}.items",
            msgpack.packb([0, [b"[1, 2, 3]"]]),
            exchange="rpc.control",
            message_type="rpc.items",
            correlation_id=identity,
            headers={"rpc-items": "1"},
        )
        while message.header.properties.message_type != "result":
            message = await peer.reply()
        assert (message.routing_key, message.body) == (new_address, b"3")


async def test_another_request_with_the_id_of_a_stream_is_refused(
    server: Server, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    identity, new_address = new_id(), await peer.consume_new()
    await publish_stream(peer, queue, "upload", identity)
    await until(lambda: implementation.runs["upload"] == 1)
    await publish_stream(peer, queue, "upload", identity, reply_to=new_address)
    assert await fault_at(peer, new_address) == "bad_request"
    assert implementation.runs["upload"] == 1
    assert implementation.ended["upload"] == 0


class Stubborn(Implementation):
    """Has a method that does not end when it is cancelled."""

    async def upload(self, name: str, items: AsyncIterator[bytes]) -> U64:
        self._begin("upload")
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
        return 0


async def test_a_request_that_was_sent_again_may_have_run(
    connection: Connection, peer: RawPeer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_handler, "_MAX_ENDING", 0.05)
    implementation = Stubborn()
    async with Server(connection).add(implementation, queue):
        identity, new_address = new_id(), await peer.consume_new()
        await publish_stream(peer, queue, "upload", identity)
        await until(lambda: implementation.runs["upload"] == 1)
        resent = {"reply_to": new_address, "headers": {"rpc-resent": ""}}
        await publish_stream(peer, queue, "upload", identity, **resent)
        try:
            assert await fault_at(peer, new_address) == "interrupted"
        finally:
            implementation.release.set()
    assert implementation.runs["upload"] == 1


def event(number: int) -> bytes:
    return json.dumps({"type": "deleted", "id": number}).encode()


async def first_cancelled(peer: RawPeer) -> str:
    """Returns the routing key of the next cancellation, other than grants of credit."""
    while (message := await peer.reply()).header.properties.message_type != "rpc.cancel":
        pass
    return message.routing_key or ""


async def fault_at(peer: RawPeer, address: str) -> str:
    """Returns the code of the fault that is the next message to this address."""
    while (message := await peer.reply()).routing_key != address:
        pass
    assert message.header.properties.message_type == "fault"
    return str(json.loads(message.body)["code"])


async def worker_header(peer: RawPeer, correlation_id: str) -> Any:
    """Returns the header of the next message of this stream. Others may send keep-alives."""
    while (message := await peer.reply()).header.properties.correlation_id != correlation_id:
        pass
    headers = message.header.properties.headers or {}
    return json.loads(str(headers["rpc-worker"]))
