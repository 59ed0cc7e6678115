"""Broadcasts and discovery."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import sample
from rpc_runtime import Connection, NoWorkers, Refused, Server, connect
from rpc_runtime.transport.channel import Channel
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until, until_deleted


@pytest.fixture
async def workers(url: str, queue: str) -> AsyncIterator[list[tuple[str, Implementation]]]:
    async with connect(url) as connection:
        implementations = [Implementation() for _ in range(3)]
        servers = [
            await Server(connection, name=f"worker {number}").add(each, queue).start()
            for number, each in enumerate(implementations)
        ]
        yield [(server.id, each) for server, each in zip(servers, implementations, strict=True)]
        for server in servers:
            await server.stop()


@pytest.fixture
def client(connection: Connection, queue: str) -> sample.SampleClient:
    return sample.SampleClient(connection, queue)


Workers = list[tuple[str, Implementation]]


async def test_every_worker_answers_once(client: sample.SampleClient, workers: Workers) -> None:
    answers = client.with_options(expect_workers=3).reload("now")
    results = {answer.worker.id: answer.result() async for answer in answers}
    assert results == {identity: 7 for identity, _ in workers}
    assert (answers.missing, answers.is_confirmed) == (0, True)
    assert all(each.runs["reload"] == 1 for _, each in workers)


async def test_gathering_ends_half_a_second_after_the_last_answer(
    client: sample.SampleClient, workers: Workers
) -> None:
    """How many answers arrive in time depends on the machine."""
    last = None
    async for _ in client.reload("now"):
        last = time.monotonic()
    assert last is not None
    # The call itself ends after 30 seconds.
    assert 0.5 <= time.monotonic() - last < 15.0


async def test_gathering_ends_some_time_after_the_last_answer(
    client: sample.SampleClient, workers: Workers
) -> None:
    began = time.monotonic()
    answers = await client.with_options(quiet_for=3.0).reload("now").collect()
    assert sorted(answer.worker.name or "" for answer in answers) == [
        f"worker {number}" for number in range(3)
    ]
    assert 3.0 <= time.monotonic() - began < 15.0


async def test_gathering_ends_at_the_limit(client: sample.SampleClient, workers: Workers) -> None:
    began = time.monotonic()
    answers = client.with_options(expect_workers=4, timeout=4.0).reload("now")
    assert len(await answers.collect()) == 3
    assert answers.missing == 1
    # Without the option, it would be 30 seconds.
    assert 4.0 <= time.monotonic() - began < 15.0


async def test_the_queue_for_answers_is_deleted_with_its_broadcast(
    client: sample.SampleClient,
    workers: Workers,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare, declared = Channel.declare_queue, []

    async def record(channel: Channel, name: str, **options: Any) -> tuple[str, int]:
        answer = await declare(channel, name, **options)
        declared.append(answer[0])
        return answer

    monkeypatch.setattr(Channel, "declare_queue", record)
    assert len(await client.with_options(expect_workers=3).reload("now").collect()) == 3
    monkeypatch.undo()
    (queue,) = declared
    await until_deleted(connection, queue)


async def test_errors_belong_to_their_worker(client: sample.SampleClient, workers: Workers) -> None:
    async for answer in client.with_options(expect_workers=3).reload("bad"):
        with pytest.raises(sample.QueryErrorNoRoute):
            answer.result()


async def test_a_one_way_broadcast(client: sample.SampleClient, workers: Workers) -> None:
    await client.clear()
    await until(lambda: all(each.runs["clear"] == 1 for _, each in workers))


async def test_nobody_is_reached(client: sample.SampleClient) -> None:
    with pytest.raises(NoWorkers):
        await client.reload("now").collect()
    with pytest.raises(NoWorkers):
        await client.clear()


async def test_a_broadcast_does_not_come_through_the_queue(
    workers: Workers, peer: RawPeer, queue: str
) -> None:
    properties: dict[str, Any] = {"reply_to": peer.replies, "correlation_id": "1"}
    await peer.publish(queue, message_type="reload", **properties)
    assert (await peer.reply()).body.startswith(b"unknown_method: cannot run")
    await peer.publish(
        queue, exchange="rpc.control", message_type="get_email", expiration="30000", **properties
    )
    for _ in workers:
        reply = await peer.reply()
        assert reply.body.startswith(b"unknown_method: cannot run")
        worker = json.loads(str((reply.header.properties.headers or {})["rpc-worker"]))
        assert set(worker) == {"id"}


async def test_all_workers_are_discovered(workers: Workers, peer: RawPeer, queue: str) -> None:
    await peer.publish(
        "rpc.discovery",
        exchange="rpc.control",
        message_type="rpc.describe",
        content_type="application/json",
        reply_to=peer.replies,
        correlation_id="1",
        expiration="30000",
    )
    found: set[str] = set()
    while len(found) < 3:
        reply = json.loads((await peer.reply()).body)
        if reply["queues"][0]["queue"] == queue:
            found.add(reply["worker"]["id"])
    assert found == {identity for identity, _ in workers}


async def test_one_worker_is_asked(workers: Workers, peer: RawPeer) -> None:
    identity = workers[1][0]
    await peer.publish(
        identity,
        exchange="rpc.control",
        message_type="rpc.ping",
        reply_to=peer.replies,
        correlation_id="1",
    )
    assert (await peer.reply()).body.startswith(f'worker {identity} "worker 1"'.encode())
    await peer.publish(
        identity, exchange="rpc.control", message_type="get_email", reply_to=peer.replies
    )
    assert (await peer.reply()).body.startswith(b"unknown_method")


async def test_the_time_of_a_broadcast_counts_while_it_waits_for_its_turn(
    connection: Connection,
    implementation: Implementation,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rpc_runtime.worker.control._MAX_RUNNING", 1)
    client = sample.SampleClient(connection, queue).with_options(expect_workers=1, timeout=60.0)
    async with Server(connection).add(implementation, queue) as server:
        assert server._control is not None
        control = server._control
        first = asyncio.ensure_future(client.reload("slow").collect())
        await until(implementation.began.is_set)
        second = asyncio.ensure_future(client.reload("now").collect())
        await until(lambda: len(control._broadcasts) == 2)
        arrived = asyncio.get_running_loop().time()
        # Time that must count.
        await asyncio.sleep(1.0)
        implementation.release.set()
        await first
        await second
    deadline = implementation.contexts[-1].deadline
    assert deadline is not None
    assert deadline <= arrived + 60.0


async def test_a_worker_takes_no_broadcast_while_it_waits_for_the_last_ones(
    connection: Connection, implementation: Implementation, queue: str
) -> None:
    client = sample.SampleClient(connection, queue)
    server = await Server(connection).add(implementation, queue).start()
    running = asyncio.ensure_future(client.with_options(expect_workers=1).reload("slow").collect())
    await until(implementation.began.is_set)
    stopping = asyncio.ensure_future(server.stop())

    async def is_unreachable() -> bool:
        try:
            await client.clear()
        except NoWorkers:
            return True
        except Refused:
            # While the broker deletes the queue.
            pass
        return False

    await until(is_unreachable)
    assert not stopping.done()
    implementation.release.set()
    assert await stopping
    (answer,) = await running
    assert answer.result() == 7


async def test_a_flood_takes_bounded_memory(
    connection: Connection,
    server: Server,
    peer: RawPeer,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker does not take answers while it blocks publishers."""
    # No answer is given up before the flood has ended.
    monkeypatch.setattr("rpc_runtime.worker.control._REPLY_LIMIT", 100.0)
    assert server._control is not None
    control = server._control
    link = await connection.supervisor.link()
    link.blocking.set(True)
    try:
        for number in range(200):
            await peer.publish(
                queue,
                b"{}",
                exchange="rpc.control",
                message_type="clear" if number % 2 else "missing",
                reply_to=peer.replies,
            )
            await peer.publish(
                "rpc.discovery",
                exchange="rpc.control",
                message_type="rpc.ping",
                reply_to=peer.replies,
            )
        await until(lambda: len(control._broadcasts) + len(control._answers) >= 48 + 64)
        # Time in which more of them could be taken.
        await asyncio.sleep(0.3)
        assert len(control._broadcasts) + len(control._answers) <= 48 + 64
    finally:
        link.blocking.set(False)
    await until(lambda: not control._broadcasts and not control._answers)
