"""What aiormq raises when a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rpc_runtime.transport.blocking import Blocking
from rpc_runtime.transport.channel import Channel
from rpc_runtime.transport.errors import ChannelLost
from rpc_runtime.transport.link import Link


def failing(error: Exception) -> Callable[..., Any]:
    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def channel_of(error: Exception) -> Channel:
    raw = SimpleNamespace(
        closing=asyncio.get_running_loop().create_future(),
        is_closed=False,
        on_consumer_cancel_callbacks=set(),
        queue_declare=failing(error),
    )
    return Channel(cast(Any, raw), Blocking())


def link_of(error: Exception) -> Link:
    raw = SimpleNamespace(
        closing=asyncio.get_running_loop().create_future(),
        connection_tune=SimpleNamespace(channel_max=0),
        channels={},
        channel=failing(error),
    )
    return Link(cast(Any, raw), Blocking())


async def test_a_plain_exception_is_a_loss() -> None:
    """aiormq raises it for all that waits when a connection ends without an error."""
    with pytest.raises(ChannelLost, match="the channel was closed"):
        await channel_of(Exception()).declare_queue("a")
    with pytest.raises(ChannelLost, match="the connection was closed"):
        await link_of(Exception()).channel()


async def test_a_wrong_argument_is_no_loss() -> None:
    with pytest.raises(TypeError):
        await channel_of(TypeError("wrong")).declare_queue("a")
    with pytest.raises(TypeError):
        await link_of(TypeError("wrong")).channel()
