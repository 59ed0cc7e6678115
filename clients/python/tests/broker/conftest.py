"""What tests against a broker share. The address of a node is in `AMQP_URL`."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import pytest

import rpc_runtime
from rpc_runtime.protocol.jobs import dead_queue, retry_queue
from support.proxy import Proxy
from support.raw import RawPeer
from support.service import Implementation


@pytest.fixture(scope="session")
def url() -> str:
    address = os.environ.get("AMQP_URL")
    if not address:
        pytest.fail("AMQP_URL must name a broker, such as amqp://guest:guest@localhost:5672")
    return address


@pytest.fixture
async def peer(url: str) -> AsyncIterator[RawPeer]:
    async with RawPeer(url) as peer:
        yield peer


@pytest.fixture
async def queue(peer: RawPeer) -> AsyncIterator[str]:
    name = f"test.python.{uuid.uuid4()}"
    yield name
    await peer.delete(
        name, dead_queue(name), *(retry_queue(name, wait) for wait in (100, 200, 500, 1000, 10_000))
    )


@pytest.fixture
async def connection(url: str) -> AsyncIterator[rpc_runtime.Connection]:
    async with rpc_runtime.connect(url) as connection:
        yield connection


@pytest.fixture
async def implementation() -> Implementation:
    return Implementation()


@pytest.fixture
async def server(
    connection: rpc_runtime.Connection, implementation: Implementation, queue: str
) -> AsyncIterator[rpc_runtime.Server]:
    server = rpc_runtime.Server(connection, name="till 3", drain_timeout=2.0)
    async with server.add(implementation, queue):
        yield server


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    async with Proxy(url) as proxy:
        yield proxy
