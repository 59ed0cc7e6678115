"""Streams that methods return and receive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import conformance as api
from rpc_runtime import Executed

from .case import case
from .context import Caller, Failed, ensure, entry, fails, until
from .errors import REFUSALS, is_refusal
from .values import person_named, shapes


@case
async def count(caller: Caller) -> None:
    for items in (0, 1, 10_000):
        numbers = [number async for number in caller.client.count(items)]
        ensure(numbers == list(range(items)), items)


@case
async def failing_stream(caller: Caller) -> None:
    for number in range(REFUSALS):
        items = []
        try:
            async for item in caller.client.count_to(3 * number, number):
                items.append(item)
        except api.Refusal as error:
            ensure(is_refusal(error, number), error)
        else:
            raise Failed("an error is missing")
        ensure(items == list(range(3 * number)), items)
    ensure([item async for item in caller.client.count_to(5)] == [0, 1, 2, 3, 4])


@case
async def blobs(caller: Caller) -> None:
    sizes = [0, 1, 250, 70_000, 200_000, 3, 200_000, 200_000]
    expected = iter(sizes)
    async for blob in caller.client.blobs(sizes):
        size = next(expected)
        ensure(blob == bytes(index % 251 for index in range(size)), size, len(blob))
    ensure(next(expected, None) is None)


@case
async def little_credit(caller: Caller) -> None:
    expected = 0
    async for number in caller.client.with_options(credit=4, credit_bytes=20).count(200):
        ensure(number == expected, number, "instead of", expected)
        if number % 50 == 0:
            await asyncio.sleep(0.1)
        expected += 1
    ensure(expected == 200, expected)


@case
async def left_early(caller: Caller) -> None:
    name = entry("ticks")
    ticks = []
    async with caller.client.ticks(name, 2) as stream:
        async for tick in stream:
            ticks.append(tick)
            if tick == 4:
                break
        ensure(await caller.client.stopped(name) == 0)
    ensure(ticks == [0, 1, 2, 3, 4], ticks)

    async def has_stopped() -> bool:
        return await caller.client.stopped(name) == 1

    await until("the method stops", has_stopped)


@case
async def resumed(caller: Caller) -> None:
    for after, first in ((None, 0), (49, 50), (99, 100)):
        numbers = [number async for number in caller.client.resumable(100, after)]
        ensure(numbers == list(range(first, 100)), after)


@case
async def many_streams(caller: Caller) -> None:
    async def read(items: int) -> None:
        numbers = [number async for number in caller.client.count(items)]
        ensure(numbers == list(range(items)), items)

    await asyncio.gather(*(read(items) for items in range(30)))


@case
async def sum_(caller: Caller) -> None:
    ensure(await caller.client.sum(range(10_000)) == 49_995_000)


@case
async def sum_of_nothing(caller: Caller) -> None:
    ensure(await caller.client.sum([]) == 0)


@case
async def concat(caller: Caller) -> None:
    every = bytes(range(256))
    parts = [(every * 400)[:size] for size in (0, 1, 100_000, 30_000)]

    async def sent() -> AsyncIterator[bytes]:
        for part in parts:
            await asyncio.sleep(0)
            yield part

    ensure(await caller.client.concat(200_000, sent()) == b"".join(parts))


@case
async def refused_parts(caller: Caller) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"\7" * 10_000

    error = await fails(caller.client.concat(95_000, parts()), api.RefusalTooMany)
    ensure(error.value == 95_000 and error.executed is Executed.YES, error)
    ensure(10 <= sent < 2000, sent, "parts were sent")


@case
async def take(caller: Caller) -> None:
    def people() -> Iterator[api.Person]:
        while True:
            yield person_named("Alice")

    ensure(await caller.client.take(3, people()) == 3)
    ensure(await caller.client.take(3, [person_named("Bob")]) == 1)


@case
async def answer(caller: Caller) -> None:
    lines = [str(number) for number in range(500)]
    client = caller.client.with_options(credit=16)
    answers = [line async for line in client.answer("line", lines)]
    ensure(answers == [f"line: {line}" for line in lines], len(answers))


@case
async def check(caller: Caller) -> None:
    good = [shape for shape in shapes() if not isinstance(shape, api.ShapeNothing)]
    sent: list[api.Shape] = [*good, api.ShapeNothing(), api.ShapeCircle(value=1.0)]
    checked: list[api.Shape] = []
    try:
        async for shape in caller.client.check(sent):
            checked.append(shape)
    except api.RefusalClosed:
        ensure(checked == good, checked)
        return
    raise Failed("an error is missing")
