"""Connections that are lost, at the caller and at the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import sample
from rpc_runtime import BrokerFailed, Connection, Executed, Server, TimedOut, connect
from support.proxy import Proxy
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until, until_disconnected


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[Connection]:
    """A connection that breaks."""
    async with connect(proxy.url) as connection:
        yield connection


async def until_confirmed(connection: Connection) -> None:
    """Waits until the broker has confirmed all requests. A worker may run them earlier."""
    session = connection.caller.current_session
    assert session is not None
    await until(lambda: session.publisher.unconfirmed == 0)


@pytest.fixture
def caller(far: Connection, server: Server, queue: str) -> sample.SampleClient:
    """A caller whose connection breaks; the worker's does not."""
    return sample.SampleClient(far, queue)


async def test_a_confirmed_call_waits_for_its_reply(
    caller: sample.SampleClient, far: Connection, implementation: Implementation, proxy: Proxy
) -> None:
    call = asyncio.create_task(caller.area(sample.ShapePoint()))
    await implementation.began.wait()
    await until_confirmed(far)
    before = far.caller.current_session
    proxy.cut()
    await until(lambda: far.caller.current_session not in (before, None))
    implementation.release.set()
    assert await call == 1.0
    assert implementation.runs["area"] == 1
    assert proxy.connections == 2


async def test_a_confirmed_call_fails_with_its_reply_queue(
    proxy: Proxy, server: Server, implementation: Implementation, queue: str
) -> None:
    async with connect(proxy.url, reply_queue="exclusive") as connection:
        client = sample.SampleClient(connection, queue)
        call = asyncio.create_task(client.area(sample.ShapePoint()))
        await implementation.began.wait()
        await until_confirmed(connection)
        proxy.cut()
        with pytest.raises(BrokerFailed, match="the reply queue was lost") as caught:
            await call
        assert caught.value.executed is Executed.MAYBE
        implementation.release.set()


@pytest.mark.parametrize("kind", ["resumable", "exclusive"])
async def test_an_idempotent_call_is_sent_again(
    proxy: Proxy, server: Server, implementation: Implementation, queue: str, kind: Any
) -> None:
    async with connect(proxy.url, reply_queue=kind) as connection:
        client = sample.SampleClient(connection, queue)
        call = asyncio.create_task(client.get_email("slow"))
        await implementation.began.wait()
        proxy.cut()
        # With the same reply address, the worker recognizes the request that it runs.
        runs, joined = (1, 1) if kind == "resumable" else (2, 0)
        handler = server._handlers[queue]
        await until(lambda: (implementation.runs["slow"], handler.joined) == (runs, joined))
        implementation.release.set()
        assert await call == "slow@example.com"
        assert implementation.runs["slow"] == runs


async def test_an_unconfirmed_request_may_have_run(
    caller: sample.SampleClient, implementation: Implementation, proxy: Proxy
) -> None:
    await caller.import_()
    proxy.from_broker.clear()
    call = asyncio.create_task(caller.area(sample.ShapePoint()))
    await until(lambda: implementation.runs["area"] == 1)
    proxy.cut()
    proxy.from_broker.set()
    with pytest.raises(BrokerFailed) as caught:
        await call
    assert caught.value.executed is Executed.MAYBE
    implementation.release.set()


async def test_an_unconfirmed_idempotent_request_is_sent_again(
    caller: sample.SampleClient, implementation: Implementation, proxy: Proxy
) -> None:
    await caller.import_()
    proxy.from_broker.clear()
    call = asyncio.create_task(caller.get_email("a"))
    job = asyncio.create_task(caller.send_mail("a"))
    await until(lambda: implementation.runs["get_email"] and implementation.runs["send_mail"])
    proxy.cut()
    proxy.from_broker.set()
    assert await call == "a@example.com"
    await job


async def test_a_call_without_a_connection_ends_at_its_deadline(
    caller: sample.SampleClient, far: Connection, proxy: Proxy
) -> None:
    await caller.import_()
    proxy.accepts = False
    proxy.cut()
    await until_disconnected(far)
    await until(lambda: far.caller.current_session is None)
    with pytest.raises(TimedOut) as caught:
        await caller.with_options(timeout=0.5).get_email("a")
    assert (caught.value.executed, caught.value.retryable) == (Executed.NO, True)
    proxy.accepts = True
    assert await caller.get_email("a") == "a@example.com"


async def test_a_broker_that_cannot_be_reached_is_an_error(proxy: Proxy) -> None:
    proxy.accepts = False
    with pytest.raises(BrokerFailed, match="cannot connect"):
        async with asyncio.timeout(30):
            await connect(proxy.url).open()


async def test_several_addresses_are_tried(
    proxy: Proxy, url: str, server: Server, queue: str
) -> None:
    proxy.accepts = False
    async with connect([proxy.url, url]) as connection:
        assert await sample.SampleClient(connection, queue).get_email("a") == "a@example.com"


async def test_a_worker_answers_on_its_next_connection(
    far: Connection, connection: Connection, proxy: Proxy, peer: RawPeer, queue: str
) -> None:
    implementation = Implementation()
    async with Server(far).add(implementation, queue) as server:
        client = sample.SampleClient(connection, queue)
        calls = [
            asyncio.create_task(client.area(sample.ShapePoint())),
            asyncio.create_task(client.get_email("slow")),
        ]
        await until(lambda: implementation.runs["area"] and implementation.runs["slow"])
        proxy.cut()
        await until(lambda: server._handlers[queue].joined == 2)
        implementation.release.set()
        assert await asyncio.gather(*calls) == [1.0, "slow@example.com"]
        assert (implementation.runs["area"], implementation.runs["slow"]) == (1, 1)
    # What was redelivered is acknowledged.
    await until(lambda: peer.is_empty(queue))
    async with Server(connection).add(Implementation(), queue):
        await client.import_()


async def test_another_worker_does_not_run_what_is_not_idempotent(
    far: Connection, connection: Connection, proxy: Proxy, queue: str
) -> None:
    first, second = Implementation(), Implementation()
    client = sample.SampleClient(connection, queue)
    server = await Server(far).add(first, queue).start()
    area = asyncio.create_task(client.area(sample.ShapePoint()))
    email = asyncio.create_task(client.get_email("slow"))
    await until(lambda: first.runs["area"] and first.runs["slow"])
    async with Server(connection).add(second, queue):
        second.release.set()
        proxy.accepts = False
        proxy.cut()
        with pytest.raises(Exception, match="interrupted: the method may have run"):
            await area
        assert await email == "slow@example.com"
        assert (second.runs["area"], second.runs["slow"]) == (0, 1)
        assert second.contexts[0].is_redelivered
    proxy.accepts = True
    await server.stop(0)


async def test_a_deleted_queue_is_declared_again(
    server: Server, connection: Connection, peer: RawPeer, queue: str
) -> None:
    client = sample.SampleClient(connection, queue)
    await client.import_()
    await peer.delete(queue)
    await client.with_options(wait_for_server=True).import_()


async def test_a_deleted_reply_queue_is_replaced(
    server: Server,
    connection: Connection,
    implementation: Implementation,
    peer: RawPeer,
    queue: str,
) -> None:
    client = sample.SampleClient(connection, queue)
    call = asyncio.create_task(client.get_email("slow"))
    await implementation.began.wait()
    session = connection.caller.current_session
    assert session is not None
    await peer.delete(session.reply_to)
    await until(lambda: implementation.runs["slow"] == 2)
    implementation.release.set()
    assert await call == "slow@example.com"


@pytest.mark.parametrize("times", [1, 3])
async def test_a_stream_outlives_its_readers_connection(
    caller: sample.SampleClient, implementation: Implementation, proxy: Proxy, times: int
) -> None:
    arrived: list[int] = []
    async for number in caller.with_options(credit=64).entries("20000"):
        arrived.append(number)
        if number % 5000 == 2500 and times > 0:
            times -= 1
            proxy.cut()
    assert arrived == list(range(20_000))
    assert implementation.runs["entries"] == 1


async def test_a_stream_outlives_its_workers_connection(
    far: Connection, connection: Connection, proxy: Proxy, queue: str
) -> None:
    implementation = Implementation()
    arrived: list[int] = []
    async with Server(far).add(implementation, queue):
        client = sample.SampleClient(connection, queue).with_options(credit=64)
        async for number in client.entries("20000"):
            arrived.append(number)
            if number in (3000, 12_000):
                proxy.cut()
    assert arrived == list(range(20_000))
    assert implementation.runs["entries"] == 1


async def _numbers(count: int, proxy: Proxy, cuts: set[int]) -> AsyncIterator[bytes]:
    for number in range(count):
        if number in cuts:
            proxy.cut()
            await asyncio.sleep(0.01)
        yield b"x" * (number % 100)


async def test_an_upload_outlives_the_callers_connection(
    caller: sample.SampleClient, implementation: Implementation, proxy: Proxy
) -> None:
    size = await caller.upload("a", _numbers(20_000, proxy, {3000, 12_000}))
    assert size == sum(number % 100 for number in range(20_000))
    assert implementation.runs["upload"] == 1


async def test_an_upload_outlives_the_workers_connection(
    far: Connection, connection: Connection, proxy: Proxy, queue: str
) -> None:
    implementation = Implementation()
    async with Server(far).add(implementation, queue):
        client = sample.SampleClient(connection, queue)
        size = await client.upload("a", _numbers(20_000, proxy, {3000, 12_000}))
    assert size == sum(number % 100 for number in range(20_000))
    assert implementation.runs["upload"] == 1


async def test_idempotent_calls_survive_many_cuts(
    far: Connection, proxy: Proxy, queue: str
) -> None:
    """Caller and worker share the connection that breaks."""
    async with Server(far).add(Implementation(), queue):
        client = sample.SampleClient(far, queue).with_options(timeout=120.0)

        async def cut() -> None:
            for _ in range(5):
                await asyncio.sleep(0.3)
                proxy.cut()

        cutting = asyncio.create_task(cut())
        for first in range(0, 2000, 100):
            emails = await asyncio.gather(
                *(client.get_email(str(number)) for number in range(first, first + 100))
            )
            assert emails == [f"{number}@example.com" for number in range(first, first + 100)]
            await asyncio.sleep(0.05)
        await cutting


async def test_a_silent_network_is_noticed(proxy: Proxy, server: Server, queue: str) -> None:
    async with connect(f"{proxy.url}?heartbeat=1") as connection:
        client = sample.SampleClient(connection, queue)
        # An idempotent method, because a slow machine may seem silent already here.
        await client.get_email("a")
        before = proxy.connections
        proxy.from_broker.clear()
        call = asyncio.create_task(client.get_email("a"))
        await until_disconnected(connection)
        proxy.from_broker.set()
        assert await call == "a@example.com"
        assert proxy.connections > before


async def test_a_server_that_stops_lets_requests_end(
    connection: Connection, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    server = await Server(connection).add(implementation, queue).start()
    client = sample.SampleClient(connection, queue)
    call = asyncio.create_task(client.area(sample.ShapePoint()))
    await implementation.began.wait()
    stopping = asyncio.create_task(server.stop())
    await until(lambda: peer.is_unserved(queue))
    late = asyncio.create_task(client.get_email("late"))
    implementation.release.set()
    assert await call == 1.0
    assert await stopping
    await server.wait()
    async with Server(connection).add(Implementation(), queue):
        assert await late == "late@example.com"


async def test_a_server_stops_although_a_method_runs(
    connection: Connection,
    implementation: Implementation,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The caller of the stream is told in time.
    monkeypatch.setattr("rpc_runtime.worker.server._FAREWELL", 30.0)
    server = await Server(connection).add(implementation, queue).start()
    client = sample.SampleClient(connection, queue)
    calls = [
        asyncio.create_task(client.get_email("slow")),
        asyncio.ensure_future(_all(client.trades("idle"))),
    ]
    await until(lambda: implementation.runs["slow"] and implementation.runs["idle"])
    assert not await server.stop(0.2)
    assert implementation.ended["slow"] == 1
    with pytest.raises(Exception, match="interrupted: the worker of the stream stops"):
        await calls[1]
    second = Implementation()
    second.release.set()
    async with Server(connection).add(second, queue):
        assert await calls[0] == "slow@example.com"


async def _all(stream: Any) -> Any:
    return [item async for item in stream]


async def test_calls_to_a_broker_that_confirms_nothing_take_bounded_memory(
    proxy: Proxy, peer: RawPeer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpc_runtime.transport.channel._MAX_UNCONFIRMED", 3)
    await peer.channel.queue_declare(queue)
    async with connect(proxy.url) as connection:
        client = sample.SampleClient(connection, queue)
        await client.log("hello")
        proxy.from_broker.clear()
        for _ in range(3):
            calls = [client.with_options(timeout=0.3).get_email("a") for _ in range(4)]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, TimedOut)
        session = connection.caller.current_session
        assert session is not None
        assert session.publisher.unconfirmed == 3
        proxy.from_broker.set()
        await client.log("hello")
