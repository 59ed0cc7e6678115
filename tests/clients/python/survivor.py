"""Calls that go on while their worker is killed: `survivor.py QUEUE CODEC`.

Prints `begun` once its streams have items, waits for a line, makes two calls, and prints `sent`. In
the meantime, the worker is paused, killed, and replaced. Then prints how each call went.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable

import conformance as api
import rpc_runtime
from cases.context import Failed, ensure, entry, fails
from rpc_runtime import Codec, Executed, Fault

LIMIT = 60.0
NOTICED = 20.0
"""How long a stream may seem to go on after its worker's end."""
SENT = 4.0
"""How long calls may take to reach the paused worker."""


async def idempotent_call(client: api.ConformanceClient) -> None:
    """Is answered by the next worker."""
    ensure(await client.echo_text("again") == "again")


async def other_call(client: api.ConformanceClient) -> None:
    """Fails, because the next worker cannot know whether it ran."""
    error = await fails(client.refuse(1), Fault)
    ensure(error.code == "interrupted" and error.executed is Executed.MAYBE, error)


async def stream(ticks: rpc_runtime.ResultStream[int]) -> None:
    """Ends with an error."""
    expected, last = 3, time.monotonic()
    try:
        async for tick in ticks:
            ensure(tick == expected, tick, "instead of", expected)
            expected, last = expected + 1, time.monotonic()
    except Fault as error:
        ensure(error.code == "interrupted" and error.executed is Executed.MAYBE, error)
    else:
        raise Failed("an error is missing")
    ensure(time.monotonic() - last < NOTICED, "it took too long")


async def resumable_stream(numbers: rpc_runtime.ResultStream[int], items: int) -> None:
    """Goes on at the next worker."""
    rest = [number async for number in numbers]
    ensure(rest == list(range(3, items)), rest[:5], len(rest))


async def report(name: str, call: Awaitable[None]) -> bool:
    """Says how a call went."""
    try:
        async with asyncio.timeout(LIMIT):
            await call
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"failed {name}: {reason[:1000]}", flush=True)
        return False
    print(f"ok {name}", flush=True)
    return True


async def main(queue: str, codec: str) -> bool:
    """Makes the calls."""
    async with rpc_runtime.connect(
        os.environ["AMQP_URL"], codec={"msgpack": Codec.MESSAGE_PACK, "json": Codec.JSON}[codec]
    ) as connection:
        client = api.ConformanceClient(connection, queue).with_options(timeout=LIMIT)
        items = 2000
        ticks = client.ticks(entry("ticks"), 20)
        numbers = client.with_options(credit=8).resumable(items)
        for read in (ticks, numbers):
            ensure([await anext(read) for _ in range(3)] == [0, 1, 2])
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        calls = [
            asyncio.ensure_future(report("idempotent_call", idempotent_call(client))),
            asyncio.ensure_future(report("other_call", other_call(client))),
        ]
        await asyncio.sleep(SENT)
        print("sent", flush=True)
        calls.append(asyncio.ensure_future(report("stream", stream(ticks))))
        resumed = report("resumable_stream", resumable_stream(numbers, items))
        calls.append(asyncio.ensure_future(resumed))
        return all(await asyncio.gather(*calls))


sys.exit(not asyncio.run(main(*sys.argv[1:])))
