"""How a server starts and stops."""

from __future__ import annotations

import asyncio

import pytest

import sample
from rpc_runtime import BrokerFailed, Connection, RequestQueue, Server, connect
from support.proxy import Proxy
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until, until_disconnected


async def test_a_stop_that_is_cancelled_goes_on(
    connection: Connection, implementation: Implementation, queue: str
) -> None:
    client = sample.SampleClient(connection, queue)
    async with asyncio.timeout(30.0):
        async with Server(connection).add(implementation, queue) as server:
            call = asyncio.ensure_future(client.get_email("slow"))
            await until(implementation.began.is_set)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.stop(), 0.1)
            implementation.release.set()
        await server.wait()
        assert await call == "slow@example.com"
        assert await server.stop()


async def test_a_server_whose_start_is_cancelled_serves_nothing(
    proxy: Proxy, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    async with connect(proxy.url) as far:
        server = Server(far).add(implementation, queue)
        proxy.accepts = False
        proxy.cut()
        await until_disconnected(far)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.start(), 0.1)
        assert server._task is not None and server._task.done()
        with pytest.raises(RuntimeError):
            await server.start()
    await peer.channel.queue_declare(queue)


async def test_a_server_that_is_stopped_while_it_connects_takes_nothing(
    connection: Connection, proxy: Proxy, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    async with connect(proxy.url) as far:
        server = await Server(far).add(implementation, queue).start()
        slow = asyncio.ensure_future(sample.SampleClient(connection, queue).get_email("slow"))
        await until(implementation.began.is_set)
        proxy.accepts = False
        proxy.cut()
        await until_disconnected(far)
        stop = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0)
        proxy.accepts = True
        await peer.publish(queue, b"{}", message_type="log")
        await far.supervisor.link()
        # Time in which a consumer could be opened.
        await asyncio.sleep(0.5)
        implementation.release.set()
        assert await stop
        assert implementation.runs["log"] == 0
        slow.cancel()


async def test_a_start_that_is_stopped_says_so(
    proxy: Proxy, implementation: Implementation, queue: str
) -> None:
    async with connect(proxy.url) as far:
        proxy.accepts = False
        proxy.cut()
        await until_disconnected(far)
        server = Server(far).add(implementation, queue)
        starting = asyncio.ensure_future(server.start())
        await until(lambda: server._task is not None)
        assert await server.stop()
        with pytest.raises(BrokerFailed, match="cannot serve: the server was stopped"):
            await starting


async def test_the_wait_ends_if_the_program_closes_the_connection(
    url: str, implementation: Implementation, queue: str
) -> None:
    async with connect(url) as own, Server(own).add(implementation, queue) as server:
        waiting = asyncio.ensure_future(server.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        await own.close()
        async with asyncio.timeout(30.0):
            await waiting
        assert await server.stop()


async def test_an_argument_that_cannot_be_sent_is_an_error_of_the_start(
    connection: Connection, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    wrong = RequestQueue(queue, arguments={"x-max-length": object()})
    with pytest.raises(BrokerFailed):
        async with asyncio.timeout(30.0):
            await Server(connection).add(implementation, wrong).start()
    await peer.channel.queue_declare(queue)
