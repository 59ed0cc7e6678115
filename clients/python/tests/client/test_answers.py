"""What is known about a broadcast that no worker was told of."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

import sample
from rpc_runtime import Executed, TimedOut, connect
from rpc_runtime.transport.channel import Published
from rpc_runtime.transport.link import Link


class StubChannel:
    """Returns the first message that is published, and never confirms the others."""

    is_open = True

    def __init__(self, broker: StubLink) -> None:
        self._broker = broker

    async def unblocked(self) -> None:
        if self._broker.published > 0:
            await asyncio.Event().wait()

    async def publish(self, *_: Any, **__: Any) -> Published:
        self._broker.published += 1
        return Published.RETURNED

    async def prefetch(self, _: int) -> None:
        pass

    async def declare_queue(self, *_: Any, **__: Any) -> tuple[str, int]:
        return "answers", 0

    async def consume(self, *_: Any) -> None:
        pass

    async def close(self) -> None:
        pass


class StubLink:
    """A connection that the broker blocks once it has returned a message."""

    def __init__(self) -> None:
        self.published = 0

    async def channel(self, **_: Any) -> StubChannel:
        return StubChannel(self)


@pytest.mark.parametrize("is_oneway", [False, True])
async def test_a_broadcast_that_was_returned_has_not_run(
    monkeypatch: pytest.MonkeyPatch, is_oneway: bool
) -> None:
    link = StubLink()

    async def open_link() -> Link:
        return cast(Link, link)

    connection = connect()
    monkeypatch.setattr(connection.supervisor, "link", open_link)
    client = sample.SampleClient(connection).with_options(wait_for_server=True, timeout=1.0)
    with pytest.raises(TimedOut) as caught:
        if is_oneway:
            await client.clear()
        else:
            await client.reload("now").collect()
    assert link.published == 1
    assert caught.value.executed is Executed.NO
