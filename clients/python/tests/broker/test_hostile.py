"""Messages that no peer should send."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import msgpack
import pytest
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody

import sample
from rpc_runtime import BadReply, Connection, Executed, RequestQueue, Server
from rpc_runtime.protocol.request_id import new_id
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until


async def publish_raw(peer: RawPeer, queue: str, flags: int, properties: bytes) -> None:
    """Publishes a message whose properties have these bytes."""
    header = struct.pack(">HHQH", 60, 0, 2, flags) + properties
    number = peer.channel.number
    framed = struct.pack(">BHI", 2, number, len(header)) + header + b"\xce"
    publish = ChannelFrame.marshall(
        channel_number=number, frames=[commands.Basic.Publish(routing_key=queue)]
    ).payload
    body = ChannelFrame.marshall(channel_number=number, frames=[ContentBody(b"{}")]).payload
    connection = peer.channel.connection
    payload = publish + framed + body
    await connection.write_queue.put(ChannelFrame(payload=payload, should_close=False))


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


CONTENT_TYPE, CORRELATION_ID, REPLY_TO, TYPE = 1 << 15, 1 << 10, 1 << 9, 1 << 5


async def test_properties_that_are_not_utf8_are_answered(
    server: Server, connection: Connection, peer: RawPeer, queue: str
) -> None:
    link = await connection.supervisor.link()
    properties = (
        short(b"application/json")
        + short(b"id")
        + short(peer.replies.encode())
        + short(b"\xff\xfe")
    )
    flags = CONTENT_TYPE | CORRELATION_ID | REPLY_TO | TYPE
    await publish_raw(peer, queue, flags, properties)
    reply = await peer.reply()
    assert reply.header.properties.correlation_id == "id"
    fault = json.loads(reply.body)
    assert fault["code"] == "bad_request"
    assert fault["message"].startswith("the request cannot be read: its properties")
    assert await sample.SampleClient(connection, queue).get_email("a") == "a@example.com"
    # The connection was not lost.
    assert await connection.supervisor.link() is link
    await until(lambda: peer.is_empty(queue))


async def test_a_malformed_request_without_a_reply_is_a_dead_letter(
    server: Server, connection: Connection, peer: RawPeer, queue: str
) -> None:
    await publish_raw(peer, queue, TYPE, short(b"\xff"))
    dead = f"{queue}.dead"
    await until(lambda: peer.depth(dead))


async def test_requests_that_are_refused(server: Server, peer: RawPeer, queue: str) -> None:
    for properties, body, code in [
        ({"content_type": "application/xml"}, b"", "unsupported_content_type"),
        ({"content_type": "application/json"}, b"[", "bad_request"),
        ({"content_type": "application/json", "message_type": "missing"}, b"", "unknown_method"),
        ({"content_type": "application/json"}, b'{"id":7}', "bad_request"),
    ]:
        named = {"message_type": "get_email", **properties}
        await peer.publish(queue, body, reply_to=peer.replies, correlation_id="1", **named)
        reply = await peer.reply()
        assert reply.header.properties.message_type == "fault"
        assert code.encode() in reply.body


async def test_the_default_method_answers_plain_requests(
    server: Server, peer: RawPeer, queue: str
) -> None:
    await peer.publish(queue, b"user:1", reply_to=peer.replies, correlation_id="1")
    reply = await peer.reply()
    assert reply.body == b"user:1@example.com"
    assert reply.header.properties.content_type == "text/plain"
    assert reply.header.properties.message_type == "result"


async def test_only_reply_addresses_are_answered(
    connection: Connection, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    dead = f"{queue}.dead"
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    victim = f"{queue}.retry.1000"
    await peer.channel.queue_declare(victim)
    target = RequestQueue(queue, arguments=arguments)
    async with Server(connection).add(implementation, target):
        await peer.publish(queue, b"a", reply_to=victim, correlation_id="1")
        await until(lambda: peer.depth(dead))
        assert implementation.runs["get_email"] == 0
        assert await peer.depth(victim) == 0


async def test_probes_are_answered_at_once(
    connection: Connection,
    implementation: Implementation,
    peer: RawPeer,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A worker gives up an answer that is late, because it says nothing then.
    monkeypatch.setattr("rpc_runtime.worker.request_handler._PROBE_TIMEOUT", 30.0)
    async with Server(connection, concurrency=2).add(implementation, queue):
        client = sample.SampleClient(connection, queue)
        running = asyncio.create_task(client.area(sample.ShapePoint()))
        await implementation.began.wait()
        await peer.publish(
            queue, message_type="rpc.probe", reply_to=peer.replies, correlation_id="probe"
        )
        reply = await peer.reply()
        assert (reply.body, reply.header.properties.correlation_id) == (b"", "probe")
        assert reply.header.properties.message_type is None
        implementation.release.set()
        await running


async def test_a_wrong_direct_reply_address_harms_nobody(
    server: Server, connection: Connection, peer: RawPeer, queue: str
) -> None:
    await peer.publish(queue, b"a", reply_to="amq.rabbitmq.reply-to.nonsense", correlation_id="1")
    assert await sample.SampleClient(connection, queue).get_email("a") == "a@example.com"
    await until(lambda: peer.is_empty(queue))


async def test_direct_reply_to_is_answered(server: Server, peer: RawPeer, queue: str) -> None:
    await peer.channel.basic_consume("amq.rabbitmq.reply-to", peer.arrived.put, no_ack=True)
    await peer.publish(queue, b"a", reply_to="amq.rabbitmq.reply-to", correlation_id="1")
    assert (await peer.reply()).body == b"a@example.com"


async def test_control_messages_of_strangers_are_ignored(
    server: Server, connection: Connection, peer: RawPeer, queue: str
) -> None:
    bodies = [b"", b"\xc1", msgpack.packb(7), msgpack.packb([[b"short", 1]]), msgpack.packb([7])]
    for key in (queue, server.id):
        for kind in ("rpc.cancel", "rpc.credit", "rpc.items", "nonsense", None):
            for body in bodies:
                await peer.publish(key, body, exchange="rpc.control", message_type=kind)
    assert await sample.SampleClient(connection, queue).get_email("a") == "a@example.com"


async def _request(peer: RawPeer, queue: str) -> commands.Basic.Properties:
    await until(lambda: peer.depth(queue))
    request = await peer.get(queue)
    assert request is not None
    return request.header.properties


async def _answered(
    connection: Connection, peer: RawPeer, queue: str, body: bytes, **changes: Any
) -> Any:
    """Calls a method whose worker sends this reply."""
    await peer.channel.queue_declare(queue)
    client = sample.SampleClient(connection, queue)
    call = asyncio.create_task(client.get_email("a"))
    properties = await _request(peer, queue)
    answer = {
        "correlation_id": properties.correlation_id,
        "content_type": "application/json",
        "message_type": "result",
        **changes,
    }
    await peer.publish(properties.reply_to or "", body, **answer)
    return await call


async def test_replies_of_strangers(connection: Connection, peer: RawPeer, queue: str) -> None:
    assert await _answered(connection, peer, queue, b'"x"') == "x"
    assert await _answered(connection, peer, queue, b'"x"', message_type="get_email") == "x"
    assert await _answered(connection, peer, queue, b"x", content_type="text/plain") == "x"
    for body, changes, executed in [
        (b"7", {}, Executed.YES),
        (b"{", {}, Executed.YES),
        (b'"x"', {"content_type": "application/xml"}, Executed.MAYBE),
        (b'"x"', {"content_encoding": "gzip"}, Executed.MAYBE),
        (b"[]", {"message_type": "fault"}, Executed.MAYBE),
        (b'"Nonsense"', {"message_type": "error"}, Executed.YES),
    ]:
        with pytest.raises(BadReply) as caught:
            await _answered(connection, peer, queue, body, **changes)
        assert caught.value.executed is executed


async def test_a_malformed_reply_ends_its_call(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    await peer.channel.queue_declare(queue)
    call = asyncio.create_task(sample.SampleClient(connection, queue).get_email("a"))
    properties = await _request(peer, queue)
    raw = short((properties.correlation_id or "").encode()) + short(b"\xff")
    await publish_raw(peer, properties.reply_to or "", CORRELATION_ID | TYPE, raw)
    with pytest.raises(BadReply, match="its properties cannot be read"):
        await call


async def test_unknown_replies_are_discarded(
    server: Server, connection: Connection, peer: RawPeer, queue: str
) -> None:
    client = sample.SampleClient(connection, queue)
    await client.import_()
    session = connection.caller.current_session
    assert session is not None
    for kind in ("result", "rpc.items", "rpc.credit", "fault", None):
        for identity in (new_id(), "x", None):
            await peer.publish(
                session.reply_to, b"\xc1", message_type=kind, correlation_id=identity
            )
    assert await client.get_email("a") == "a@example.com"
    await until(lambda: peer.is_empty(session.reply_to))
    assert connection.caller.current_session is session


async def test_a_stream_of_a_liar_is_a_bad_reply(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    worker = {"rpc-worker": json.dumps({"id": new_id()})}
    messages: list[tuple[bytes, dict[str, str]]] = [
        (msgpack.packb([0, [b"1"] * 5]), worker),
        (msgpack.packb([0, [7]]), worker),
        (b"\xc1", worker),
        (msgpack.packb([0, [b"1"]]), {}),
    ]
    await peer.channel.queue_declare(queue)
    client = sample.SampleClient(connection, queue).with_options(credit=4)
    for body, headers in messages:
        stream = client.entries("a")
        first = asyncio.ensure_future(anext(stream))
        properties = await _request(peer, queue)
        await peer.publish(
            properties.reply_to or "",
            body,
            correlation_id=properties.correlation_id,
            message_type="rpc.items",
            headers=headers,
        )
        with pytest.raises(BadReply):
            await first


async def test_a_request_that_comes_back_is_recognized(
    connection: Connection, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    """The same request twice, as a caller sends it after a lost connection."""
    async with Server(connection).add(implementation, queue) as server:
        identity = new_id()
        for headers in ({}, {"rpc-resent": ""}):
            await peer.publish(
                queue,
                b"slow",
                message_type="get_email",
                reply_to=peer.replies,
                correlation_id=identity,
                headers=headers,
            )
        await until(lambda: server._handlers[queue].joined == 1)
        implementation.release.set()
        assert (await peer.reply()).body == b"slow@example.com"
        await peer.publish(queue, b"a", reply_to=peer.replies, correlation_id="next")
        assert (await peer.reply()).body == b"a@example.com"
        assert implementation.runs["slow"] == 1


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, b""), ({}, b"\x91\x07"), ({"rpc-items": "x"}, b""), ({"rpc-items": "1"}, b"\x07")],
)
async def test_no_result_ends_a_stream_silently(
    connection: Connection, peer: RawPeer, queue: str, headers: dict[str, str], body: bytes
) -> None:
    """The reader could not tell it from a stream that is complete."""
    worker = {"rpc-worker": json.dumps({"id": new_id()})}
    await peer.channel.queue_declare(queue)
    stream = sample.SampleClient(connection, queue).entries("a")
    first = asyncio.ensure_future(anext(stream))
    properties = await _request(peer, queue)
    address, identity = properties.reply_to or "", properties.correlation_id
    item = msgpack.packb([0, [b"\x05"]])
    await peer.publish(
        address, item, correlation_id=identity, message_type="rpc.items", headers=worker
    )
    await peer.publish(
        address, body, correlation_id=identity, message_type="result", headers=worker | headers
    )
    with pytest.raises(BadReply):
        assert await first == 5
        await anext(stream)


async def test_a_worker_that_ignores_the_items_has_not_received_them(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    await peer.channel.queue_declare(queue)
    upload = sample.SampleClient(connection, queue).upload("a", [b"1"])
    call = asyncio.ensure_future(upload)
    properties = await _request(peer, queue)
    await peer.publish(properties.reply_to or "", b"\x07", correlation_id=properties.correlation_id)
    with pytest.raises(BadReply, match="without the items"):
        await call
