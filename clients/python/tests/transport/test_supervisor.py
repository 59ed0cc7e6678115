"""The task that keeps a connection open, with connections that are not real."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from yarl import URL

from rpc_runtime import tasks
from rpc_runtime.protocol.backoff import Backoff
from rpc_runtime.transport import supervisor
from rpc_runtime.transport.blocking import Blocking
from rpc_runtime.transport.errors import ConnectFailed
from rpc_runtime.transport.link import Link
from rpc_runtime.transport.supervisor import Supervisor
from support.waiting import until

_A, _B = URL("amqp://a:1"), URL("amqp://b:2")


class StubLink:
    """A connection that is not closed before it may be."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.reason = "it was lost"
        self.blocking = Blocking()
        self.events: list[str] = []
        self.may_close = asyncio.Event()

    async def close(self) -> None:
        self.events.append("closing")
        await self.may_close.wait()
        self.events.append("closed")
        self.closed.set()


class StubBroker:
    """Stands in for `open_link`."""

    def __init__(self) -> None:
        self.attempts = 0
        self.problems: dict[URL, str] = {}
        self.link = StubLink()

    async def open_link(self, address: URL, *_: Any) -> Link:
        self.attempts += 1
        if address in self.problems:
            raise ConnectFailed(self.problems[address])
        return cast(Link, self.link)

    async def until_tried_again(self) -> None:
        """Waits until all addresses were tried, with what is set now."""
        enough = self.attempts + 5
        await until(lambda: self.attempts >= enough)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> StubBroker:
    broker = StubBroker()
    monkeypatch.setattr(supervisor, "open_link", broker.open_link)
    monkeypatch.setattr(supervisor, "Backoff", lambda: Backoff(0.001, 0.001))
    return broker


async def test_each_reason_of_an_address_is_logged_once(
    broker: StubBroker, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        return [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]

    broker.problems = {_A: "a refuses", _B: "b refuses"}
    it = Supervisor([_A, _B], "test", None)
    it.start()
    await broker.until_tried_again()
    expected = ["cannot connect to a:1: a refuses", "cannot connect to b:2: b refuses"]
    assert warnings() == expected

    broker.problems[_A] = "a is silent"
    await broker.until_tried_again()
    expected.append("cannot connect to a:1: a is silent")
    assert warnings() == expected

    # After a connection, they are news again.
    del broker.problems[_B]
    await it.link()
    broker.problems[_B] = "b refuses"
    broker.link.closed.set()
    await broker.until_tried_again()
    expected.append("the connection to b:2 was lost: it was lost")
    assert warnings()[:4] == expected
    assert sorted(warnings()[4:]) == [
        "cannot connect to a:1: a is silent",
        "cannot connect to b:2: b refuses",
    ]
    await it.close()


async def test_a_connection_that_is_open_has_no_problem(broker: StubBroker) -> None:
    it = Supervisor([_A], "test", None)
    assert it.problem == "it is not connected yet"
    broker.problems[_A] = "a refuses"
    it.start()
    await until(lambda: it.problem == "a refuses")
    broker.problems.clear()
    await it.link()
    assert it.problem == ""
    broker.link.blocking.set(True)
    assert it.problem == "the broker blocks publishers"
    broker.link.blocking.set(False)
    assert it.problem == ""

    broker.problems[_A] = "a is gone"
    lost, broker.link = broker.link, StubLink()
    lost.closed.set()
    await until(lambda: it.problem == "a is gone")
    broker.problems.clear()
    await it.link()
    assert it.problem == ""
    broker.link.may_close.set()
    await it.close()


async def test_a_connection_has_time_to_close(
    broker: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_CANCEL_AGAIN", 0.001)
    it = Supervisor([_A], "test", None)
    it.start()
    await it.link()
    closes = [asyncio.create_task(it.close()) for _ in range(2)]
    # Time in which the closing could be cut off.
    done, _ = await asyncio.wait(closes, timeout=0.1)
    assert not done
    assert broker.link.events == ["closing"]
    broker.link.may_close.set()
    await asyncio.gather(*closes)
    await it.close()
    assert broker.link.events == ["closing", "closed"]


async def test_a_connection_is_closed_even_if_nobody_waits_for_that(broker: StubBroker) -> None:
    it = Supervisor([_A], "test", None)
    it.start()
    await it.link()
    closing = asyncio.create_task(it.close())
    await until(lambda: broker.link.events == ["closing"])
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    broker.link.may_close.set()
    await until(lambda: broker.link.events == ["closing", "closed"])
