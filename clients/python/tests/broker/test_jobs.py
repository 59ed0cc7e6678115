"""One-way calls and jobs."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest

import sample
from rpc_runtime import Codec, Connection, EncodeFailed, RequestQueue, Server
from support.raw import RawPeer
from support.service import Implementation
from support.waiting import until


@pytest.fixture
def client(connection: Connection, server: Server, queue: str) -> sample.SampleClient:
    return sample.SampleClient(connection, queue)


async def test_a_one_way_call_ends_when_the_broker_has_it(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    await client.log("hello")
    await until(lambda: implementation.lines == ["hello"])


async def test_a_job_is_retried_until_it_succeeds(
    client: sample.SampleClient, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    await client.send_mail("second")
    await until(lambda: implementation.mails == [("second", 1), ("second", 2)])
    assert await peer.depth(f"{queue}.dead") == 0


@pytest.mark.parametrize("codec", [Codec.MESSAGE_PACK, Codec.JSON])
async def test_a_job_that_fails_each_time_becomes_a_dead_letter(
    client: sample.SampleClient,
    implementation: Implementation,
    peer: RawPeer,
    queue: str,
    codec: Codec,
) -> None:
    began = int(time.time() * 1000)
    await client.with_options(codec=codec, headers={"tenant": "a"}).send_mail("nowhere")
    dead = f"{queue}.dead"
    await until(lambda: peer.depth(dead))
    letter = await peer.get(dead)
    assert letter is not None
    assert implementation.mails == [("nowhere", attempt) for attempt in (1, 2, 3)]
    properties = letter.header.properties
    headers = properties.headers or {}
    assert (properties.message_type, properties.delivery_mode) == ("send_mail", 2)
    assert headers["tenant"] == "a"
    assert headers["rpc-reason"] == "error"
    assert headers["rpc-error"] == "NoRoute"
    assert headers["rpc-attempts"] == "3"
    assert headers["rpc-origin"] == queue
    assert began <= int(str(headers["rpc-first-failure"])) < int(str(headers["rpc-last-failure"]))


async def test_an_exception_counts_as_a_failure(
    client: sample.SampleClient, peer: RawPeer, queue: str
) -> None:
    await client.send_mail("crash")
    dead = f"{queue}.dead"
    await until(lambda: peer.depth(dead))
    letter = await peer.get(dead)
    assert letter is not None
    headers = letter.header.properties.headers or {}
    assert (headers["rpc-reason"], headers["rpc-attempts"]) == ("panicked", "3")


async def test_what_can_never_run_becomes_a_dead_letter_at_once(
    server: Server, peer: RawPeer, queue: str
) -> None:
    requests = {
        "bad_request": ("send_mail", b"[1"),
        "unknown_method": ("missing", b"{}"),
    }
    for reason, (method, body) in requests.items():
        await peer.publish(queue, body, message_type=method, content_type="application/json")
        dead = f"{queue}.dead"
        await until(functools.partial(peer.depth, dead))
        letter = await peer.get(dead)
        assert letter is not None
        assert (letter.header.properties.headers or {})["rpc-reason"] == reason


async def test_a_job_may_run_later(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    began = time.monotonic()
    await client.with_options(delay=0.65).send_mail("later")
    await until(lambda: implementation.mails == [("later", 1)])
    assert 0.65 <= time.monotonic() - began < 10.0
    with pytest.raises(EncodeFailed):
        client.with_options(delay=31 * 24 * 3600)


async def test_a_job_that_was_given_up_only_moves(
    server: Server, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    headers = {"rpc-given-up": "", "rpc-reason": "error", "rpc-attempts": "3"}
    await peer.publish(queue, b"{}", message_type="send_mail", headers=headers)
    dead = f"{queue}.dead"
    await until(lambda: peer.depth(dead))
    letter = await peer.get(dead)
    assert letter is not None
    assert "rpc-given-up" not in (letter.header.properties.headers or {})
    assert implementation.mails == []


async def test_a_job_waits_while_its_dead_letter_queue_takes_nothing(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    """A full queue refuses it, so it goes to a retry queue, and says that it was given up."""
    full: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
    dead, wait = f"{queue}.dead", f"{queue}.retry.10000"
    await peer.channel.queue_declare(dead, durable=True, arguments=full)
    for name in (queue, *(f"{queue}.retry.{millis}" for millis in (100, 200, 500, 10_000))):
        arguments: dict[str, Any] = {"x-queue-type": "classic"}
        await peer.channel.queue_declare(name, durable=True, arguments=arguments)
    server = Server(connection).add(Implementation(), RequestQueue(queue, existing=True))
    async with server:
        await peer.publish(queue, b"[1", message_type="send_mail", content_type="application/json")
        await until(lambda: peer.depth(wait))
        letter = await peer.get(wait)
        assert letter is not None
        headers = letter.header.properties.headers or {}
        assert (headers["rpc-given-up"], headers["rpc-reason"]) == ("", "bad_request")


async def test_a_job_returns_from_a_worker_that_is_lost(
    client: sample.SampleClient, connection: Connection, implementation: Implementation, queue: str
) -> None:
    """A classic queue does not count deliveries, so the next worker moves the job to its end."""
    await client.send_mail("slow")
    await implementation.began.wait()
    link = await connection.supervisor.link()
    await link.close()
    implementation.release.set()
    # The one that runs ends on the lost connection, and is recognized.
    await until(lambda: implementation.ended["mail"] == 1)
    await client.send_mail("second")
    await until(lambda: ("second", 2) in implementation.mails)
    assert implementation.mails.count(("slow", 1)) == 1


async def test_a_redelivered_job_runs_at_another_worker(
    connection: Connection, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    async with Server(connection).add(implementation, queue):
        pass
    client = sample.SampleClient(connection, queue)
    await client.send_mail("again")
    got = await peer.channel.basic_get(queue)
    await peer.channel.basic_reject(got.delivery_tag or 0, requeue=True)
    async with Server(connection).add(implementation, queue):
        await until(lambda: implementation.mails == [("again", 1)])
        context = implementation.contexts[0]
        assert context.headers == {}


async def test_a_queue_that_is_declared_otherwise_is_an_error(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    await peer.channel.queue_declare(queue, durable=False)
    with pytest.raises(Exception, match=r"cannot serve: .*PRECONDITION_FAILED"):
        await Server(connection).add(Implementation(), queue).start()
