"""How many messages of a channel may be unconfirmed."""

from __future__ import annotations

import asyncio

import pytest

from rpc_runtime.transport.room import Room


async def entering(room: Room, size: int) -> asyncio.Task[None]:
    task = asyncio.create_task(room.enter(size))
    await asyncio.sleep(0)
    return task


async def test_messages_and_bytes_are_limited() -> None:
    room = Room(2, 10)
    await room.enter(4)
    large = await entering(room, 7)
    small = await entering(room, 1)
    # Nobody overtakes.
    assert not large.done() and not small.done()
    room.leave(4)
    await asyncio.sleep(0)
    assert large.done() and small.done()
    third = await entering(room, 1)
    assert not third.done()
    room.leave(1)
    await third


async def test_a_message_may_be_larger_than_all_room() -> None:
    room = Room(2, 10)
    await room.enter(100)
    other = await entering(room, 0)
    assert not other.done()
    room.leave(100)
    await other


async def test_who_gives_up_takes_no_room() -> None:
    room = Room(1, 10)
    await room.enter(1)
    gone, entered, last = [await entering(room, 1) for _ in range(3)]
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    # It may be let in at the moment when it gives up.
    room.leave(1)
    entered.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entered
    await last


async def test_nobody_waits_once_it_is_closed() -> None:
    room = Room(1, 1)
    await room.enter(1)
    waiting = await entering(room, 5)
    room.close()
    await waiting
    await room.enter(5)
