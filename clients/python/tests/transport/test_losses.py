"""What aiormq raises when a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiormq.exceptions import ChannelClosed, ChannelPreconditionFailed

from rpc_runtime.protocol.message import Message
from rpc_runtime.transport.blocking import Blocking
from rpc_runtime.transport.channel import Channel
from rpc_runtime.transport.errors import ChannelLost
from rpc_runtime.transport.link import Link


def failing(error: Exception) -> Callable[..., Any]:
    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def channel_of(error: Exception) -> Channel:
    """A channel on which nothing succeeds."""
    raw = SimpleNamespace(
        closing=asyncio.get_running_loop().create_future(),
        is_closed=False,
        on_consumer_cancel_callbacks=set(),
        queue_declare=failing(error),
        basic_publish=failing(error),
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


async def test_a_message_that_cannot_be_encoded_costs_no_channel() -> None:
    channel = channel_of(TypeError("wrong"))
    unwritable = [
        (Message(app_id="x" * 256), ""),
        (Message(priority=cast(int, 1.5)), ""),
        (Message(headers={"a": object()}), ""),
        (Message(), "x" * 256),
    ]
    for message, queue in unwritable:
        with pytest.raises(ChannelLost, match="the message cannot be encoded") as caught:
            await channel.publish(message, queue=queue)
        assert (caught.value.is_written, caught.value.is_alone) == (False, True)
        assert channel.is_open


async def test_any_other_failure_of_a_publication_is_a_loss() -> None:
    channel = channel_of(TypeError("a frame of the broker cannot be read"))
    with pytest.raises(ChannelLost, match="a frame of the broker") as caught:
        await channel.publish(Message(app_id="x" * 255), queue="x" * 255)
    assert (caught.value.is_written, caught.value.is_alone) == (True, False)
    assert not channel.is_open


async def test_a_channel_that_this_program_closes_tells_nothing_about_a_message() -> None:
    for error, reason, is_alone in [
        (ChannelClosed(None, None), "the channel was closed", False),
        (ChannelClosed(320, "CONNECTION_FORCED"), "CONNECTION_FORCED", True),
        (ChannelPreconditionFailed("PRECONDITION_FAILED"), "PRECONDITION_FAILED", True),
    ]:
        with pytest.raises(ChannelLost, match=reason) as caught:
            await channel_of(error).publish(Message())
        assert (caught.value.is_written, caught.value.is_alone) == (True, is_alone)
