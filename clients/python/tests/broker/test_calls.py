"""Calls with one reply."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import sample
from rpc_runtime import (
    BadReply,
    Codec,
    Connection,
    EncodeFailed,
    Executed,
    Fault,
    MethodErrorText,
    NoServer,
    Server,
    TimedOut,
    TooLarge,
    TooManyCalls,
    connect,
    serve,
)
from rpc_runtime.deadline import ambient_deadline, now
from support.raw import RawPeer
from support.service import Implementation, account
from support.waiting import until, until_deleted

codecs = pytest.mark.parametrize("codec", [Codec.MESSAGE_PACK, Codec.JSON])


@pytest.fixture
def client(connection: Connection, server: Server, queue: str) -> sample.SampleClient:
    return sample.SampleClient(connection, queue)


@codecs
async def test_all_types_pass_both_ways(client: sample.SampleClient, codec: Codec) -> None:
    client = client.with_options(codec=codec)
    assert await client.get_email("user:1") == "user:1@example.com"
    assert await client.find(sample.KeyById(id=1)) == [account(7)]
    assert await client.find("a", 3, 2) == [account(3)] * 2
    for event in (sample.EventCreated(account=account()), sample.EventPing()):
        assert await client.echo_event(event) == event
    for step in (sample.StepWalk(meters=1), sample.StepTurn(value=90), sample.StepStay()):
        assert await client.echo_step(step) == step
    tree = sample.Tree(name="a", children=[sample.Tree(name="b", children=[])])
    assert await client.echo_tree(tree) == tree
    assert await client.echo_bytes(bytes(range(256))) == bytes(range(256))
    assert await client.parse_number("-7") == -7
    await client.import_()
    await client.save(account())


@codecs
async def test_errors_are_typed(client: sample.SampleClient, codec: Codec) -> None:
    client = client.with_options(codec=codec)
    with pytest.raises(sample.QueryErrorUnknownUser) as caught:
        await client.get_email("missing")
    assert (caught.value.id, caught.value.executed) == ("missing", Executed.YES)
    with pytest.raises(sample.QueryErrorTooMany) as many:
        await client.get_email("many")
    assert many.value.value == 3
    with pytest.raises(sample.QueryError):
        await client.get_email("nowhere")
    with pytest.raises(sample.ParseNumberFailed) as failed:
        await client.parse_number("x")
    assert failed.value.error == "'x' is no number"


async def test_plain_text(client: sample.SampleClient) -> None:
    client = client.with_options(codec=Codec.TEXT)
    assert await client.get_email("user:1") == "user:1@example.com"
    assert await client.echo_bytes(b"\xff") == b"\xff"
    with pytest.raises(MethodErrorText):
        await client.get_email("missing")
    with pytest.raises(EncodeFailed):
        await client.find("a")


async def test_faults_of_the_worker(client: sample.SampleClient) -> None:
    with pytest.raises(Fault, match="panicked: the method raised KeyError") as panicked:
        await client.get_email("crash")
    assert panicked.value.executed is Executed.YES
    with pytest.raises(Fault) as busy:
        await client.get_email("busy")
    assert (busy.value.code, busy.value.retry_after, busy.value.retryable) == (
        "rejected",
        1.5,
        True,
    )
    with pytest.raises(Fault) as unanswerable:
        await client.parse_number("huge")
    assert unanswerable.value.code == "unanswerable"


async def test_a_missing_queue_is_an_error_at_once(connection: Connection) -> None:
    client = sample.SampleClient(connection, "test.python.missing")
    with pytest.raises(NoServer) as caught:
        await client.get_email("a")
    assert (caught.value.executed, caught.value.retryable) == (Executed.NO, True)
    with pytest.raises(NoServer):
        await client.send_mail("a")


async def test_a_call_may_wait_for_the_queue(
    connection: Connection,
    implementation: Implementation,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = sample.SampleClient(connection, queue).with_options(wait_for_server=True)
    call = asyncio.create_task(client.get_email("a"))
    await asyncio.sleep(0.3)
    async with Server(connection).add(implementation, queue):
        assert await call == "a@example.com"
    # The pause until the next attempt is longer than the call may take.
    monkeypatch.setattr("rpc_runtime.client.caller._NO_SERVER_PAUSE", 60.0)
    with pytest.raises(NoServer):
        missing = sample.SampleClient(connection, "test.python.missing")
        await missing.with_options(wait_for_server=True).get_email("a")


async def test_a_call_times_out_and_its_method_is_cancelled(
    client: sample.SampleClient, implementation: Implementation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker does not end the method by itself.
    monkeypatch.setattr("rpc_runtime.worker.executor._ABANDONED_AFTER", 60.0)
    with pytest.raises(TimedOut, match=r"no reply within 4 s") as caught:
        await client.with_options(timeout=4.0).get_email("slow")
    assert caught.value.executed is Executed.MAYBE
    await until(lambda: implementation.ended["slow"] == 1)
    assert implementation.contexts[-1].cancelled.is_set()


async def test_a_cancelled_task_cancels_the_method(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    call = asyncio.create_task(client.save(_slow()))
    await implementation.began.wait()
    call.cancel()
    await until(lambda: implementation.ended["save slow"] == 1)


async def test_a_method_that_cannot_be_cancelled_goes_on(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    with pytest.raises(TimedOut):
        await client.with_options(timeout=4.0).area(sample.ShapePoint())
    await until(implementation.contexts[0].cancelled.is_set)
    assert implementation.ended["area"] == 0
    implementation.release.set()
    await until(lambda: implementation.ended["area"] == 1)


async def test_a_request_that_was_cancelled_in_the_queue_does_not_run(
    connection: Connection, implementation: Implementation, peer: RawPeer, queue: str
) -> None:
    async with Server(connection, concurrency=1).add(implementation, queue) as server:
        client = sample.SampleClient(connection, queue)
        running = asyncio.create_task(client.area(sample.ShapePoint()))
        await implementation.began.wait()
        waiting = asyncio.create_task(client.get_email("a"))
        await until(lambda: peer.depth(queue))
        waiting.cancel()
        await until(lambda: server._handlers[queue].cancellations.remembered == 1)
        implementation.release.set()
        await running
        await client.import_()
        assert implementation.runs["get_email"] == 0
        counts = server._served[queue].methods["get_email"].stats
        assert (counts.cancelled, counts.calls, counts.in_flight) == (1, 0, 0)


async def test_nested_calls_inherit_the_deadline(
    connection: Connection, implementation: Implementation, queue: str
) -> None:
    inner = sample.SampleClient(connection, queue)

    class Outer(Implementation):
        async def get_email(self, id: str) -> str:
            return await inner.get_email(id)

    other = f"{queue}.outer"
    async with (
        Server(connection).add(implementation, queue),
        Server(connection).add(Outer(), other),
        Deleting(connection, other),
    ):
        outer = sample.SampleClient(connection, other).with_options(timeout=4.0)
        with pytest.raises((TimedOut, Fault)):
            await outer.get_email("slow")
        left = implementation.contexts[0].time_left
        assert left is not None
        assert left <= 4.0
        await until(lambda: implementation.ended["slow"] == 1)


class Deleting:
    """Deletes a queue when the test has ended."""

    def __init__(self, connection: Connection, queue: str) -> None:
        self._connection, self._queue = connection, queue

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        link = await self._connection.supervisor.link()
        channel = await link.channel()
        for suffix in ("", ".dead", *(f".retry.{wait}" for wait in (100, 200, 500, 10_000))):
            await channel.delete_queue(self._queue + suffix)


async def test_the_context_describes_the_request(
    client: sample.SampleClient, implementation: Implementation
) -> None:
    client = client.with_options(timeout=1000.0, headers={"tenant": "a"}, priority=3)
    await client.get_email("a")
    context = implementation.contexts[0]
    assert context.method == "get_email"
    assert context.headers == {"tenant": "a"}
    assert context.time_left is not None
    assert 500.0 < context.time_left <= 1000.0
    assert not context.is_redelivered
    assert context.request_id is not None


async def test_only_so_many_calls_are_in_flight(
    url: str, server: Server, implementation: Implementation, queue: str
) -> None:
    async with connect(url, max_in_flight=2) as connection:
        client = sample.SampleClient(connection, queue)
        calls = [asyncio.create_task(client.area(sample.ShapePoint())) for _ in range(2)]
        await implementation.began.wait()
        with pytest.raises(TooManyCalls, match="2 calls are in flight") as caught:
            await client.get_email("a")
        assert caught.value.executed is Executed.NO
        implementation.release.set()
        await asyncio.gather(*calls)
        assert await client.get_email("a") == "a@example.com"


async def test_sizes_are_limited(url: str, server: Server, queue: str) -> None:
    async with connect(url, max_sent_bytes=100) as connection:
        with pytest.raises(TooLarge):
            await sample.SampleClient(connection, queue).echo_bytes(b"x" * 200)
    async with connect(url, max_accepted_bytes=100) as connection:
        with pytest.raises(BadReply, match="at most 100 are accepted"):
            await sample.SampleClient(connection, queue).echo_bytes(b"x" * 200)


async def test_a_reply_may_be_too_large(url: str, queue: str, peer: RawPeer) -> None:
    async with (
        connect(url, max_sent_bytes=100) as small,
        connect(url) as connection,
        Server(small).add(Implementation(), queue),
    ):
        with pytest.raises(Fault) as caught:
            await sample.SampleClient(connection, queue).echo_bytes(b"x" * 200)
        assert caught.value.code == "reply_too_large"


async def test_options_are_checked(client: sample.SampleClient) -> None:
    invalid: list[dict[str, Any]] = [
        {"timeout": 0},
        {"headers": {"rpc-x": "1"}},
        {"priority": 300},
        {"priority": 1.5},
        {"credit": 0},
        {"credit": 2.5},
        {"delay": -1},
    ]
    for options in invalid:
        with pytest.raises(EncodeFailed, match="an option is invalid"):
            client.with_options(**options)
    with pytest.raises(EncodeFailed, match="only a job can be delayed"):
        await client.with_options(delay=1).log("x")
    with pytest.raises(EncodeFailed, match="id: expected text"):
        await client.get_email(7)  # type: ignore[arg-type]


async def test_a_thousand_calls_at_once(client: sample.SampleClient) -> None:
    client = client.with_options(timeout=120.0)
    emails = await asyncio.gather(*(client.get_email(str(number)) for number in range(1000)))
    assert emails == [f"{number}@example.com" for number in range(1000)]


@pytest.mark.parametrize("kind", ["resumable", "exclusive"])
async def test_reply_queues(url: str, server: Server, queue: str, kind: Any) -> None:
    async with connect(url, reply_queue=kind) as connection:
        client = sample.SampleClient(connection, queue)
        assert await client.get_email("a") == "a@example.com"


async def test_an_exclusive_reply_queue_ends_with_its_session(
    url: str, server: Server, queue: str
) -> None:
    async with connect(url, reply_queue="exclusive") as connection:
        client = sample.SampleClient(connection, queue)
        await client.get_email("a")
        session = connection.caller.current_session
        assert session is not None
        await session.publisher.close()
        assert await client.get_email("a") == "a@example.com"
        await until_deleted(connection, session.reply_to)


async def test_built_in_methods_describe_the_worker(
    server: Server, peer: RawPeer, queue: str
) -> None:
    answers = {}
    for name in ("rpc.ping", "rpc.describe", "rpc.stats"):
        await peer.publish(
            queue,
            message_type=name,
            content_type="application/json",
            reply_to=peer.replies,
            correlation_id=name,
        )
        reply = await peer.reply()
        assert reply.header.properties.message_type == "result"
        answers[name] = json.loads(reply.body)
    assert answers["rpc.ping"]["id"] == server.id
    assert answers["rpc.ping"]["name"] == "till 3"
    (described,) = answers["rpc.describe"]["queues"]
    assert described["queue"] == queue
    assert described["services"][0]["name"] == "Sample"
    assert described["services"][0]["queue"] == queue
    (counted,) = answers["rpc.stats"]["queues"]
    assert {"service": "Sample", "method": "get_email"}.items() <= counted["methods"][0].items()


async def test_two_services_on_a_queue_must_differ(connection: Connection) -> None:
    server = serve(connection, Implementation())
    with pytest.raises(ValueError, match="served twice"):
        server.add(Implementation())


def _slow() -> sample.Account:
    return account(0)


async def test_nothing_is_sent_after_the_deadline(
    connection: Connection, peer: RawPeer, queue: str
) -> None:
    await peer.channel.queue_declare(queue)
    client = sample.SampleClient(connection, queue)
    await client.log("hello")
    ambient_deadline.set(now())
    for call in (client.get_email, client.send_mail):
        with pytest.raises(TimedOut) as caught:
            await call("a")
        assert caught.value.executed is Executed.NO
    assert await peer.depth(queue) == 1
